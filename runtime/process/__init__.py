"""What any process needs: settings, logs, errors, its start and its end."""
