package adminclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/keywarden/keywarden/pkg/httpapi/keysapi"
)

// Privileges compares what an API key holds with what it uses. It is not below /admin/v1:
// owners of keys may ask, too. So the server must be the main listener, also where one
// of its own has the admin API.
func (c *Client) Privileges(ctx context.Context, id string) (out keysapi.KeyPrivileges, err error) {
	return out, c.call(ctx, http.MethodGet, "../../api-keys/"+url.PathEscape(id)+"/privileges", "", nil, nil, &out)
}
