package respwriter_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
)

func TestVaryNamesAFieldOnce(t *testing.T) {
	for _, c := range []struct{ before, after []string }{
		{nil, []string{"Origin"}},
		{[]string{"Accept"}, []string{"Accept", "Origin"}},
		{[]string{"accept , origin"}, []string{"accept , origin"}},
		{[]string{"Accept", "*"}, []string{"Accept", "*"}},
		{[]string{"X-Origin"}, []string{"X-Origin", "Origin"}},
	} {
		h := http.Header{"Vary": slices.Clone(c.before)}
		respwriter.Vary(h, "Origin")
		if got := h["Vary"]; !slices.Equal(got, c.after) {
			t.Errorf("%q became %q", c.before, got)
		}
	}
}
