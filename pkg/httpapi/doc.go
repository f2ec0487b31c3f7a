package httpapi

// The general part of the API description, which swag reads together with the
// comments of the handlers; "make generate" writes docs/ from them.
//
//	@title						Keywarden
//	@version					1
//	@description				Users, API keys and a gateway behind one door. Errors are application/problem+json (RFC 9457) with a stable code and the request id.
//	@license.name				Apache-2.0
//	@license.url				https://www.apache.org/licenses/LICENSE-2.0
//	@BasePath					/
//	@securityDefinitions.apikey	BearerAuth
//	@in							header
//	@name						Authorization
//	@description				An access token or an API key, as "Bearer <token>".
//	@securityDefinitions.apikey	ApiKeyAuth
//	@in							header
//	@name						X-API-Key
//	@description				An API key.
