// Shows the HTTP API of a service by Swagger UI, which uses no outside validator.

SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", validatorUrl: null });
