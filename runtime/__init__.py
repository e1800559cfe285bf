"""What any service process needs: settings, database, logs, the HTTP shell and its lifecycle."""

VERSION = "0.1.0"
