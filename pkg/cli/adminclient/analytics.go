package adminclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi/analyticsapi"
)

// Analytics adds up what q asks for, in the parameters of GET /admin/v1/analytics, or of
// the refusals below it.
func (c *Client) Analytics(ctx context.Context, refusals bool, q url.Values) (out analyticsapi.Analytics, err error) {
	return out, c.call(ctx, http.MethodGet, analyticsPath(refusals), q.Encode(), nil, nil, &out)
}

// AnalyticsCSV is Analytics as CSV.
func (c *Client) AnalyticsCSV(ctx context.Context, refusals bool, q url.Values) ([]byte, error) {
	q.Set("format", "csv")
	text, _, err := c.do(ctx, http.MethodGet, analyticsPath(refusals), q.Encode(), nil, nil)
	return text, err
}

func analyticsPath(refusals bool) string {
	if refusals {
		return "analytics/refusals"
	}
	return "analytics"
}
