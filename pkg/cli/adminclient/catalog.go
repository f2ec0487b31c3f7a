package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/catalogapi"
)

// Products returns all products, by name, without their plans.
func (c *Client) Products(ctx context.Context) ([]catalogapi.Product, error) {
	return pages[catalogapi.Product](ctx, c, "products", nil)
}

// Product returns a product with its plans.
func (c *Client) Product(ctx context.Context, name string) (out catalogapi.Product, err error) {
	return out, c.call(ctx, http.MethodGet, productPath(name), "", nil, nil, &out)
}

// PutProduct makes or changes a product.
func (c *Client) PutProduct(ctx context.Context, name string, in catalogapi.ProductRequest) (out catalogapi.Product, err error) {
	return out, c.sendJSON(ctx, http.MethodPut, productPath(name), in, &out)
}

// DeleteProduct removes a product; forced, also one with subscriptions.
func (c *Client) DeleteProduct(ctx context.Context, name string, force bool) error {
	return c.remove(ctx, productPath(name), force)
}

// PutPlan makes or changes a plan of a product.
func (c *Client) PutPlan(ctx context.Context, product, name string, in catalogapi.PlanRequest) (out catalogapi.Plan, err error) {
	return out, c.sendJSON(ctx, http.MethodPut, planPath(product, name), in, &out)
}

// DeletePlan removes a plan; forced, also one with subscriptions.
func (c *Client) DeletePlan(ctx context.Context, product, name string, force bool) error {
	return c.remove(ctx, planPath(product, name), force)
}

// Apps returns the apps of a user, or of all when it is empty, newest first.
func (c *Client) Apps(ctx context.Context, user string) ([]catalogapi.App, error) {
	return pages[catalogapi.App](ctx, c, "apps", map[string]string{"user_id": user})
}

// App returns an app.
func (c *Client) App(ctx context.Context, id string) (out catalogapi.App, err error) {
	return out, c.call(ctx, http.MethodGet, "apps/"+url.PathEscape(id), "", nil, nil, &out)
}

// ChangeApp suspends or resumes an app.
func (c *Client) ChangeApp(ctx context.Context, id, verb string) (out catalogapi.App, err error) {
	return out, c.call(ctx, http.MethodPost, "apps/"+url.PathEscape(id)+"/"+verb, "", nil, nil, &out)
}

// SubscriptionFilter selects subscriptions; empty values select all.
type SubscriptionFilter struct{ App, Product, State string }

// Subscriptions returns subscriptions, newest first.
func (c *Client) Subscriptions(ctx context.Context, f SubscriptionFilter) ([]catalogapi.Subscription, error) {
	return pages[catalogapi.Subscription](ctx, c, "subscriptions", map[string]string{"app": f.App, "product": f.Product, "state": f.State})
}

// AddSubscription subscribes an app of any user.
func (c *Client) AddSubscription(ctx context.Context, in catalogapi.AssignRequest) (out catalogapi.Subscription, err error) {
	return out, c.sendJSON(ctx, http.MethodPost, "subscriptions", in, &out)
}

// DecideSubscription approves, rejects, suspends, resumes or revokes a subscription.
func (c *Client) DecideSubscription(ctx context.Context, id, verb string) (out catalogapi.Subscription, err error) {
	return out, c.call(ctx, http.MethodPost, "subscriptions/"+url.PathEscape(id)+"/"+verb, "", nil, nil, &out)
}

func productPath(name string) string { return "products/" + url.PathEscape(name) }

func planPath(product, name string) string {
	return productPath(product) + "/plans/" + url.PathEscape(name)
}

// sendJSON calls with a body in JSON.
func (c *Client) sendJSON(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.call(ctx, method, path, "", http.Header{"Content-Type": {"application/json"}}, body, out)
}

func (c *Client) remove(ctx context.Context, path string, force bool) error {
	_, _, err := c.do(ctx, http.MethodDelete, path, url.Values{"force": {strconv.FormatBool(force)}}.Encode(), nil, nil)
	return err
}

// pages reads a list to its end; filters that are empty are left out.
func pages[T any](ctx context.Context, c *Client, path string, filters map[string]string) (all []T, err error) {
	q := url.Values{"limit": {strconv.Itoa(httpapi.MaxLimit)}}
	for name, value := range filters {
		if value != "" {
			q.Set(name, value)
		}
	}
	all = []T{}
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
