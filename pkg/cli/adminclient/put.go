package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
)

// put replaces what is at path under the conditions of ch; the rest of ch is for the
// gateway document.
func (c *Client) put(ctx context.Context, path string, in any, ch Change, answer any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	h := ch.header()
	h.Set("Content-Type", "application/json")
	return c.call(ctx, http.MethodPut, path, "", h, body, answer)
}
