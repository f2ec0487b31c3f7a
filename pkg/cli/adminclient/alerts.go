package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi/alertsapi"
)

// Alerts returns alerts in a state, or in all when it is empty; newest first.
func (c *Client) Alerts(ctx context.Context, state string) ([]alertsapi.Alert, error) {
	return list[alertsapi.Alert](ctx, c, "alerts", map[string]string{"state": state})
}

// AlertRules returns all rules.
func (c *Client) AlertRules(ctx context.Context) ([]alertsapi.Rule, error) {
	return list[alertsapi.Rule](ctx, c, "alert-rules", nil)
}

// PutAlertRule makes the rule in body, or replaces the one with the id if that is not empty.
func (c *Client) PutAlertRule(ctx context.Context, id string, body json.RawMessage) (out alertsapi.Rule, err error) {
	if id == "" {
		return out, c.send(ctx, http.MethodPost, "alert-rules", body, &out)
	}
	return out, c.send(ctx, http.MethodPut, "alert-rules/"+url.PathEscape(id), body, &out)
}

// AlertChannels returns all channels.
func (c *Client) AlertChannels(ctx context.Context) ([]alertsapi.Channel, error) {
	return list[alertsapi.Channel](ctx, c, "alert-channels", nil)
}

// PutAlertChannel makes the channel in body, or replaces the one with the id if that is not empty.
func (c *Client) PutAlertChannel(ctx context.Context, id string, body json.RawMessage) (out alertsapi.Channel, err error) {
	if id == "" {
		return out, c.send(ctx, http.MethodPost, "alert-channels", body, &out)
	}
	return out, c.send(ctx, http.MethodPut, "alert-channels/"+url.PathEscape(id), body, &out)
}

// TestAlertChannel sends a notification through a channel.
func (c *Client) TestAlertChannel(ctx context.Context, id string) (out alertsapi.TestResult, err error) {
	return out, c.post(ctx, "alert-channels/"+url.PathEscape(id)+"/test", &out)
}

// AlertSilences returns the silences that have not ended.
func (c *Client) AlertSilences(ctx context.Context) ([]alertsapi.Silence, error) {
	return list[alertsapi.Silence](ctx, c, "alert-silences", nil)
}

// SilenceAlerts makes a silence.
func (c *Client) SilenceAlerts(ctx context.Context, in alertsapi.SilenceRequest) (out alertsapi.Silence, err error) {
	return out, c.send(ctx, http.MethodPost, "alert-silences", in, &out)
}

// AlertDeliveries returns notifications in a state, or in all when it is empty; newest first.
func (c *Client) AlertDeliveries(ctx context.Context, state string) ([]alertsapi.Delivery, error) {
	return list[alertsapi.Delivery](ctx, c, "alert-deliveries", map[string]string{"state": state})
}

// RetryAlertDelivery sends again what was given up.
func (c *Client) RetryAlertDelivery(ctx context.Context, id string) (out alertsapi.Delivery, err error) {
	return out, c.post(ctx, "alert-deliveries/"+url.PathEscape(id)+"/retry", &out)
}

// DeleteAlertThing removes what has the id in one of the lists alert-rules,
// alert-channels and alert-silences.
func (c *Client) DeleteAlertThing(ctx context.Context, from, id string) error {
	return c.remove(ctx, from+"/"+url.PathEscape(id), nil)
}
