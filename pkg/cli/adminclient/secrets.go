package adminclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi/kvmapi"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Secrets returns all secrets of an environment, or of all when it is empty; never
// their values.
func (c *Client) Secrets(ctx context.Context, environment string) ([]kvmapi.Secret, error) {
	return list[kvmapi.Secret](ctx, c, "secrets", map[string]string{"environment": environment})
}

// PutSecret sets the value of a secret.
func (c *Client) PutSecret(ctx context.Context, environment, name string, value seal.Secret) (out kvmapi.Secret, err error) {
	// The type of the request hides its value when it is marshalled.
	in := map[string]string{"value": value.Reveal(), "environment": environment}
	return out, c.send(ctx, http.MethodPut, "secrets/"+url.PathEscape(name), in, &out)
}

// DeleteSecret removes a secret.
func (c *Client) DeleteSecret(ctx context.Context, environment, name string) error {
	return c.remove(ctx, "secrets/"+url.PathEscape(name), url.Values{"environment": {environment}})
}
