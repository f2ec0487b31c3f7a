package chain

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// TestFlowsKeepEveryRuleOfTheirRoute holds for those that no policy of the document
// stands for: a plan decides what a key may reach, and must not get lost.
func TestFlowsKeepEveryRuleOfTheirRoute(t *testing.T) {
	d := (&Builder{}).Document(nil)
	base := []policy.Rule{{Name: "max_body"}, {Name: "auth"}, {Name: "plan"}, {Name: "response_headers"}, {Name: "timeout"}, {Name: "last"}}
	headers := policies.Policies{
		RequestHeaders:  &policies.RequestHeaders{Gate: policies.Gate{Mode: policies.Enforce}},
		ResponseHeaders: &policies.ResponseHeaders{Gate: policies.Gate{Mode: policies.Enforce}},
		Timeout:         &policies.Timeout{Gate: policies.Gate{Mode: policies.Off}},
	}
	rules, err := d.flows(Route{Name: "r", Flows: []policies.Flow{{Name: "a", When: "true", Policies: headers}, {Name: "b", Policies: headers}}}, base)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rule := range rules {
		text := rule.Name
		if rule.When != nil {
			text += " (" + rule.Text + ")"
		}
		got = append(got, text)
	}
	want := "max_body, auth, plan, request_headers (flow a), request_headers (flow b), response_headers (flow a), response_headers (flow b), " +
		"response_headers (no flow of its own), timeout (no flow of its own), last"
	if strings.Join(got, ", ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, ", "), want)
	}
}
