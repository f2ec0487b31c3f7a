package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/kvmapi"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Secrets returns all secrets of an environment, or of all when it is empty; never
// their values.
func (c *Client) Secrets(ctx context.Context, environment string) (all []kvmapi.Secret, err error) {
	q := url.Values{"limit": {"200"}}
	if environment != "" {
		q.Set("environment", environment)
	}
	for {
		var page httpapi.Page[kvmapi.Secret]
		if err := c.call(ctx, http.MethodGet, "secrets", q.Encode(), nil, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.NextCursor == "" {
			return all, nil
		}
		q.Set("cursor", page.NextCursor)
	}
}

// PutSecret sets the value of a secret.
func (c *Client) PutSecret(ctx context.Context, environment, name string, value seal.Secret) (out kvmapi.Secret, err error) {
	// The type of the request hides its value when it is marshalled.
	body, err := json.Marshal(map[string]string{"value": value.Reveal(), "environment": environment})
	if err != nil {
		return out, err
	}
	return out, c.call(ctx, http.MethodPut, "secrets/"+url.PathEscape(name), "", http.Header{"Content-Type": {"application/json"}}, body, &out)
}

// DeleteSecret removes a secret.
func (c *Client) DeleteSecret(ctx context.Context, environment, name string) error {
	_, _, err := c.do(ctx, http.MethodDelete, "secrets/"+url.PathEscape(name), url.Values{"environment": {environment}}.Encode(), nil, nil)
	return err
}
