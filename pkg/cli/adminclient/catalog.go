package adminclient

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/keywarden/keywarden/pkg/httpapi/catalogapi"
)

// Products returns all products, by name, without their plans.
func (c *Client) Products(ctx context.Context) ([]catalogapi.Product, error) {
	return list[catalogapi.Product](ctx, c, "products", nil)
}

// Product returns a product with its plans.
func (c *Client) Product(ctx context.Context, name string) (out catalogapi.Product, err error) {
	return out, c.call(ctx, http.MethodGet, productPath(name), "", nil, nil, &out)
}

// PutProduct makes or changes a product, on the base that ch says.
func (c *Client) PutProduct(ctx context.Context, name string, in catalogapi.ProductRequest, ch Change) (out catalogapi.Product, err error) {
	return out, c.put(ctx, productPath(name), in, ch, &out)
}

// DeleteProduct removes a product; forced, also one with subscriptions.
func (c *Client) DeleteProduct(ctx context.Context, name string, force bool) error {
	return c.remove(ctx, productPath(name), forced(force))
}

// PutPlan makes or changes a plan of a product, on the base that ch says.
func (c *Client) PutPlan(ctx context.Context, product, name string, in catalogapi.PlanRequest, ch Change) (out catalogapi.Plan, err error) {
	return out, c.put(ctx, planPath(product, name), in, ch, &out)
}

// DeletePlan removes a plan; forced, also one with subscriptions.
func (c *Client) DeletePlan(ctx context.Context, product, name string, force bool) error {
	return c.remove(ctx, planPath(product, name), forced(force))
}

// Apps returns the apps of a user, or of all when it is empty, newest first.
func (c *Client) Apps(ctx context.Context, user string) ([]catalogapi.App, error) {
	return list[catalogapi.App](ctx, c, "apps", map[string]string{"user_id": user})
}

// App returns an app.
func (c *Client) App(ctx context.Context, id string) (out catalogapi.App, err error) {
	return out, c.call(ctx, http.MethodGet, "apps/"+url.PathEscape(id), "", nil, nil, &out)
}

// ChangeApp suspends or resumes an app.
func (c *Client) ChangeApp(ctx context.Context, id, verb string) (out catalogapi.App, err error) {
	return out, c.post(ctx, "apps/"+url.PathEscape(id)+"/"+verb, &out)
}

// SubscriptionFilter selects subscriptions; empty values select all.
type SubscriptionFilter struct{ App, Product, State string }

// Subscriptions returns subscriptions, newest first.
func (c *Client) Subscriptions(ctx context.Context, f SubscriptionFilter) ([]catalogapi.Subscription, error) {
	return list[catalogapi.Subscription](ctx, c, "subscriptions", map[string]string{"app": f.App, "product": f.Product, "state": f.State})
}

// AddSubscription subscribes an app of any user.
func (c *Client) AddSubscription(ctx context.Context, in catalogapi.AssignRequest) (out catalogapi.Subscription, err error) {
	return out, c.send(ctx, http.MethodPost, "subscriptions", in, &out)
}

// DecideSubscription approves, rejects, suspends, resumes or revokes a subscription.
func (c *Client) DecideSubscription(ctx context.Context, id, verb string) (out catalogapi.Subscription, err error) {
	return out, c.post(ctx, "subscriptions/"+url.PathEscape(id)+"/"+verb, &out)
}

func productPath(name string) string { return "products/" + url.PathEscape(name) }

func planPath(product, name string) string {
	return productPath(product) + "/plans/" + url.PathEscape(name)
}

func forced(force bool) url.Values {
	return url.Values{"force": {strconv.FormatBool(force)}}
}
