package chain

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// flows puts the policies of flows among those of their route, each in the place that
// its kind has. A policy of the route counts unless the flow of the request has one of
// its kind.
func (d *Document) flows(route Route, base []policy.Rule) ([]policy.Rule, error) {
	choose, err := d.chooser(route.Flows)
	if err != nil {
		return nil, err
	}
	var all []policy.Rule
	saying := map[string][]int{} // which flows say something of a policy
	for i := range route.Flows {
		f := &route.Flows[i]
		// What is counted for a flow is counted for it alone. Names hold no slash.
		rules, err := d.rules(Route{Name: route.Name + "/" + f.Name, Service: route.Service}, &f.Policies)
		if err != nil {
			return nil, fmt.Errorf("flows: %s: %w", f.Name, err)
		}
		for _, rule := range rules {
			all = append(all, only(rule, choose, "flow "+f.Name, func(flow int) bool { return flow == i }))
		}
		for _, p := range f.List() {
			saying[p.Name] = append(saying[p.Name], i)
		}
	}
	for _, rule := range base {
		if own := saying[rule.Name]; own != nil {
			rule = only(rule, choose, "no flow of its own", func(flow int) bool { return !slices.Contains(own, flow) })
		}
		all = append(all, rule)
	}
	inOrder(all, base)
	return all, nil
}

// inOrder sorts rules into the fixed order. A rule of the route that no policy of the
// document stands for, such as that of a plan, stays behind the one it was made behind.
func inOrder(all, base []policy.Rule) {
	names := policies.Names()
	places := map[string]int{}
	for i, name := range names {
		places[name] = i
	}
	last := 0
	for _, rule := range base {
		if place, ok := places[rule.Name]; ok {
			last = place
		} else {
			places[rule.Name] = last
		}
	}
	slices.SortStableFunc(all, func(a, b policy.Rule) int { return cmp.Compare(places[a.Name], places[b.Name]) })
}

// chooser compiles the conditions of flows. It returns which flow a request takes,
// counted from 1; 0 is none. It is decided once: policies change requests.
func (d *Document) chooser(flows []policies.Flow) (func(*http.Request) (int, error), error) {
	conditions := make([]policy.Condition, len(flows))
	for i := range flows {
		var err error
		if conditions[i], err = d.condition(flows[i].When); err != nil {
			return nil, fmt.Errorf("flows: %s: when: %w", flows[i].Name, err)
		}
	}
	return func(r *http.Request) (int, error) {
		info := reqctx.From(r.Context())
		if info.FlowChosen {
			return info.Flow, nil
		}
		for i, holds := range conditions {
			taken := true
			if holds != nil {
				var err error
				if taken, err = holds(r); err != nil {
					return 0, err
				}
			}
			if taken {
				info.Flow = i + 1
				break
			}
		}
		info.FlowChosen = true
		return info.Flow, nil
	}, nil
}

// only is a rule for the requests of some flows, which are given by their index, -1
// for those of none.
func only(rule policy.Rule, choose func(*http.Request) (int, error), text string, of func(flow int) bool) policy.Rule {
	own := rule.When
	rule.When = func(r *http.Request) (bool, error) {
		flow, err := choose(r)
		if err != nil || !of(flow-1) {
			return false, err
		}
		if own == nil {
			return true, nil
		}
		return own(r)
	}
	if rule.Text != "" {
		text += ": " + rule.Text
	}
	rule.Text = text
	return rule
}
