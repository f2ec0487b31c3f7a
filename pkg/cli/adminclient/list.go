package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/keywarden/keywarden/pkg/httpapi"
)

// list reads a list to its end. Filters that are empty are left out.
func list[T any](ctx context.Context, c *Client, path string, filters map[string]string) ([]T, error) {
	q := url.Values{"limit": {strconv.Itoa(httpapi.MaxLimit)}}
	for name, value := range filters {
		if value != "" {
			q.Set(name, value)
		}
	}
	all := []T{}
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

// send is call with in as JSON; text that is JSON already is a json.RawMessage.
func (c *Client) send(ctx context.Context, method, path string, in, answer any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.call(ctx, method, path, "", http.Header{"Content-Type": {"application/json"}}, body, answer)
}

// post is call without a body, for what is a verb in the path.
func (c *Client) post(ctx context.Context, path string, answer any) error {
	return c.call(ctx, http.MethodPost, path, "", nil, nil, answer)
}

// remove deletes what is at path.
func (c *Client) remove(ctx context.Context, path string, q url.Values) error {
	_, _, err := c.do(ctx, http.MethodDelete, path, q.Encode(), nil, nil)
	return err
}
