package httpedge

import (
	"strings"
	"testing"
)

func TestPathsAreRecordedWithoutCredentials(t *testing.T) {
	secret := strings.Repeat("s3cret", 8)[:38]
	for path, want := range map[string]string{
		"/api-keys/kw_live_4fGh2kLmN0pQ" + secret:               "/api-keys/kw_live_4fGh2kLmN0pQ[redacted]",
		"/x/acme_test_4fGh2kLmN0pQ" + secret + "/y":             "/x/acme_test_4fGh2kLmN0pQ[redacted]/y",
		"/x/kw_live_4fGh2kLmN0pQ" + secret[:30]:                 "/x/kw_live_4fGh2kLmN0pQ[redacted]", // cut off in copying
		"/kw_live_4fGh2kLmN0pQ" + secret + "/kwr_" + secret:     "/kw_live_4fGh2kLmN0pQ[redacted]/kwr_[redacted]",
		"/auth/sessions/kwr_" + secret + "-_":                   "/auth/sessions/kwr_[redacted]",
		"/users/eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0." + secret: "/users/eyJ[redacted]",
		"/users/eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0":           "/users/eyJ[redacted]",

		"/users/01890a5d-ac96-774b-bcce-b302099a8057": "/users/01890a5d-ac96-774b-bcce-b302099a8057",
		"/api-keys/kw_live_4fGh2kLmN0pQ":              "/api-keys/kw_live_4fGh2kLmN0pQ", // the public part
		"/stats_live_view/now":                        "/stats_live_view/now",
		"/eyJ":                                        "/eyJ",
		"/":                                           "/",
		"":                                            "",
	} {
		if got := WithoutCredentials(path); got != want {
			t.Errorf("%q is recorded as %q, want %q", path, got, want)
		}
	}
}
