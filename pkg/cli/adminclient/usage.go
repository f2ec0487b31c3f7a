package adminclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi/usageapi"
)

// Usage adds up what q asks for, in the parameters of GET /admin/v1/usage.
func (c *Client) Usage(ctx context.Context, q url.Values) (out usageapi.Usage, err error) {
	return out, c.call(ctx, http.MethodGet, "usage", q.Encode(), nil, nil, &out)
}
