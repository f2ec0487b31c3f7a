package adminclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi/postureapi"
)

// Posture asks what weakens the instance.
func (c *Client) Posture(ctx context.Context, q url.Values) (out postureapi.Report, err error) {
	return out, c.call(ctx, http.MethodGet, "posture", q.Encode(), nil, nil, &out)
}
