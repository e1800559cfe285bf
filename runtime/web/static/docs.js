// The interface of a service, shown by Swagger UI, which asks nobody else what it thinks of it.

SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", validatorUrl: null });
