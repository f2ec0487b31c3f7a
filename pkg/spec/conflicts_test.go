package spec_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/spec"
)

// pair is a document whose two routes match by path in these ways.
func pair(first, second string) string {
	return fmt.Sprintf(`version: 1
services: [{name: a, url: "http://a"}]
routes:
  - {name: one, service: a, match: %s}
  - {name: two, service: a, match: %s}
`, first, second)
}

// A gateway compares paths after it has decoded them: a pair that only the spelling
// tells apart would be refused when the document is applied.
func TestTwoSpellingsOfOnePathAreAConflict(t *testing.T) {
	for _, c := range []struct{ first, second, want string }{
		{`{path: {exact: /a+b}}`, `{path: {exact: /a%2Bb}}`,
			`5:51: routes[1].match.path.exact: matches the same requests as route "one": decoded, "/a%2Bb" and "/a+b" are one path, "/a+b" (routes[0].match.path.exact in line 4)`},
		{`{path: {prefix: /a%2Cb/}}`, `{path: {prefix: "/a,b"}}`,
			`5:52: routes[1].match.path.prefix: matches the same requests as route "one": decoded, "/a,b" and "/a%2Cb" are one path, "/a,b" (routes[0].match.path.prefix in line 4)`},
		{`{path: {prefix: /%40me/x}, methods: [GET, PUT]}`, `{path: {prefix: "/@me/x"}, methods: [POST, PUT]}`,
			`5:52: routes[1].match.path.prefix: matches the same requests as route "one": decoded, "/@me/x" and "/%40me/x" are one path, "/@me/x" (routes[0].match.path.prefix in line 4)`},
		{`{path: {exact: /caf%C3%A9%21}, hosts: [x.test]}`, `{path: {exact: "/café!"}, hosts: [y.test, X.test]}`,
			`5:51: routes[1].match.path.exact: matches the same requests as route "one": decoded, "/caf%C3%A9!" and "/caf%C3%A9%21" are one path, "/café!" (routes[0].match.path.exact in line 4)`},
		// What has one normal form is the same as it is written.
		{`{path: {exact: /caf%c3%a9}}`, `{path: {exact: /café}}`, `5:36: routes[1].match: matches the same requests as another route (routes[0].match in line 4)`},
		{`{path: {prefix: /%61pi}}`, `{path: {prefix: /api/}}`, `5:36: routes[1].match: matches the same requests as another route (routes[0].match in line 4)`},
		{`{path: {regex: "/a+b"}}`, `{path: {regex: "/a+b"}}`, `5:36: routes[1].match: matches the same requests as another route (routes[0].match in line 4)`},
	} {
		_, err := spec.Parse("", []byte(pair(c.first, c.second)))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s and %s:\n got %v\nwant %s", c.first, c.second, err, c.want)
		}
	}
}

func TestPathsThatStayDifferentWhenDecodedAreNoConflict(t *testing.T) {
	for _, c := range [][2]string{
		{`{path: {exact: /a+b}}`, `{path: {exact: /a%20b}}`},      // a plus sign is no space in a path
		{`{path: {exact: /a%252Bb}}`, `{path: {exact: /a%2Bb}}`},  // decoded once
		{`{path: {exact: /a+b}}`, `{path: {prefix: /a%2Bb}}`},     // exact comes before prefix
		{`{path: {exact: /a+b/}}`, `{path: {exact: /a%2Bb}}`},     // another path
		{`{path: {regex: "/a+b"}}`, `{path: {regex: "/a%2Bb"}}`},  // expressions are of decoded paths
		{`{path: {exact: /caf%C3%A9}}`, `{path: {exact: /cafe}}`}, // and so is this
		{`{path: {exact: /a+b}, methods: [GET]}`, `{path: {exact: /a%2Bb}}`},
		{`{path: {exact: /a+b}, hosts: [x.test]}`, `{path: {exact: /a%2Bb}, hosts: [y.test]}`},
		{`{path: {exact: /a+b}}`, `{path: {exact: /a%2Bb}, query: [{name: q}]}`},
	} {
		if _, err := spec.Parse("", []byte(pair(c[0], c[1]))); err != nil {
			t.Errorf("%s and %s: %v", c[0], c[1], err)
		}
	}
}

// A path that cannot be decoded is one mistake, not a conflict as well.
func TestPathsThatCannotBeDecodedAreReportedOnce(t *testing.T) {
	_, err := spec.Parse("", []byte(pair(`{path: {exact: "/a%2"}}`, `{path: {exact: "/a%2"}}`)))
	var vs *spec.Violations
	if !errors.As(err, &vs) || len(vs.List) != 2 || strings.Contains(err.Error(), "same requests") {
		t.Errorf("got %v", err)
	}
}
