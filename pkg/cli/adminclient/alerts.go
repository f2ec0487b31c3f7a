package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/alertsapi"
)

// listAll is all pages of a list.
func listAll[T any](ctx context.Context, c *Client, path string, q url.Values) ([]T, error) {
	all := []T{}
	if q == nil {
		q = url.Values{}
	}
	q.Set("limit", "200")
	for {
		var page httpapi.Page[T]
		if err := c.call(ctx, http.MethodGet, path, q.Encode(), nil, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.NextCursor == "" {
			return all, nil
		}
		q.Set("cursor", page.NextCursor)
	}
}

// send is a call with a body in JSON, if there is one.
func (c *Client) send(ctx context.Context, method, path string, body []byte, answer any) error {
	var header http.Header
	if body != nil {
		header = http.Header{"Content-Type": {"application/json"}}
	}
	if answer == nil {
		_, _, err := c.do(ctx, method, path, "", header, body)
		return err
	}
	return c.call(ctx, method, path, "", header, body, answer)
}

// Alerts returns alerts in a state, or in all when it is empty; newest first.
func (c *Client) Alerts(ctx context.Context, state string) ([]alertsapi.Alert, error) {
	q := url.Values{}
	if state != "" {
		q.Set("state", state)
	}
	return listAll[alertsapi.Alert](ctx, c, "alerts", q)
}

// AlertRules returns all rules.
func (c *Client) AlertRules(ctx context.Context) ([]alertsapi.Rule, error) {
	return listAll[alertsapi.Rule](ctx, c, "alert-rules", nil)
}

// PutAlertRule makes the rule in body, or replaces the one with the id if that is not empty.
func (c *Client) PutAlertRule(ctx context.Context, id string, body []byte) (out alertsapi.Rule, err error) {
	if id == "" {
		return out, c.send(ctx, http.MethodPost, "alert-rules", body, &out)
	}
	return out, c.send(ctx, http.MethodPut, "alert-rules/"+url.PathEscape(id), body, &out)
}

// AlertChannels returns all channels.
func (c *Client) AlertChannels(ctx context.Context) ([]alertsapi.Channel, error) {
	return listAll[alertsapi.Channel](ctx, c, "alert-channels", nil)
}

// PutAlertChannel makes the channel in body, or replaces the one with the id if that is not empty.
func (c *Client) PutAlertChannel(ctx context.Context, id string, body []byte) (out alertsapi.Channel, err error) {
	if id == "" {
		return out, c.send(ctx, http.MethodPost, "alert-channels", body, &out)
	}
	return out, c.send(ctx, http.MethodPut, "alert-channels/"+url.PathEscape(id), body, &out)
}

// TestAlertChannel sends a notification through a channel.
func (c *Client) TestAlertChannel(ctx context.Context, id string) (out alertsapi.TestResult, err error) {
	return out, c.send(ctx, http.MethodPost, "alert-channels/"+url.PathEscape(id)+"/test", nil, &out)
}

// AlertSilences returns the silences that have not ended.
func (c *Client) AlertSilences(ctx context.Context) ([]alertsapi.Silence, error) {
	return listAll[alertsapi.Silence](ctx, c, "alert-silences", nil)
}

// SilenceAlerts makes a silence.
func (c *Client) SilenceAlerts(ctx context.Context, in alertsapi.SilenceRequest) (out alertsapi.Silence, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	return out, c.send(ctx, http.MethodPost, "alert-silences", body, &out)
}

// AlertDeliveries returns notifications in a state, or in all when it is empty; newest first.
func (c *Client) AlertDeliveries(ctx context.Context, state string) ([]alertsapi.Delivery, error) {
	q := url.Values{}
	if state != "" {
		q.Set("state", state)
	}
	return listAll[alertsapi.Delivery](ctx, c, "alert-deliveries", q)
}

// RetryAlertDelivery sends again what was given up.
func (c *Client) RetryAlertDelivery(ctx context.Context, id string) (out alertsapi.Delivery, err error) {
	return out, c.send(ctx, http.MethodPost, "alert-deliveries/"+url.PathEscape(id)+"/retry", nil, &out)
}

// DeleteAlertThing removes what has the id in one of the lists alert-rules,
// alert-channels and alert-silences.
func (c *Client) DeleteAlertThing(ctx context.Context, list, id string) error {
	return c.send(ctx, http.MethodDelete, list+"/"+url.PathEscape(id), nil, nil)
}
