package gateway

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/spec"
)

// TestADocumentIsValidExactlyWhenItsRoutesMakeAnIndex holds the rules for conflicts
// in the document against those of the index: what is valid must not fail when it is
// applied, and what the index takes must not be refused. Both halves are drawn often; spec's
// own tests have examples of each.
func TestADocumentIsValidExactlyWhenItsRoutesMakeAnIndex(t *testing.T) {
	g, err := New(Options{Authenticator: nobody{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		one := func(label string, choices ...string) string { return rapid.SampledFrom(choices).Draw(t, label) }
		var doc spec.Document
		for i := range rapid.IntRange(2, 4).Draw(t, "routes") {
			path := one("path", "/a+b", "/a%2Bb", "/a%2bb/", "/%61+b", "/a%252Bb", "/café", "/caf%C3%A9", "/", "/x/a,b", "/x/a%2Cb")
			single, err := spec.Parse("", fmt.Appendf(nil, "version: 1\nservices: [{name: s, url: \"http://a\"}]\nroutes: [{name: r%d, service: s, priority: %s, match: {path: {%s: %q}%s%s%s}}]", i,
				one("priority", "0", "0", "1"), one("kind", "exact", "prefix"), path,
				one("hosts", "", "", ", hosts: [a.test]", ", hosts: [A.test, b.test]"),
				one("methods", "", ", methods: [GET]", ", methods: [PUT, GET]"),
				one("conditions", "", "", ", headers: [{name: x, value: a}, {name: y}]", ", headers: [{name: Y}, {name: X, value: a}]")))
			if err != nil {
				t.Fatal(err)
			}
			doc.Version, doc.Services, doc.Routes = single.Version, single.Services, append(doc.Routes, single.Routes...)
		}
		invalid := doc.Validate()
		_, failed := g.compile(doc)
		if (invalid == nil) != (failed == nil) {
			t.Fatalf("the document is valid: %v; its index: %v", invalid, failed)
		}
		if invalid != nil && !strings.Contains(invalid.Error(), "matches the same requests") {
			t.Fatal(invalid)
		}
	})
}
