package basicauth_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy/basicauth"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestThePasswordIsHandedOverSealed(t *testing.T) {
	for _, text := range []string{"open sesame", "open sesame\n", "open sesame\r\n"} {
		step, err := basicauth.New("Aladdin", file(t, text))
		if err != nil {
			t.Fatal(err)
		}
		info := &reqctx.Info{}
		r := httptest.NewRequest("GET", "/", nil)
		step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).
			ServeHTTP(httptest.NewRecorder(), r.WithContext(reqctx.With(r.Context(), info)))
		if got := info.Authorization.Reveal(); got != "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==" { // the example of RFC 7617
			t.Errorf("%q gives %q", text, got)
		}
		if shown := fmt.Sprintf("%v %+v %#v", info, *info, *info); strings.Contains(shown, "QWxh") || strings.Contains(shown, "sesame") {
			t.Errorf("it can be printed: %s", shown)
		}
	}
}

func TestUnusablePasswordsAreRefusedWithoutQuotingThem(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "only a line break": "\n", "two lines": "sesame\nsesame", "control": "sesame\x00", "too long": strings.Repeat("sesame", 200),
		"not UTF-8": "sesame\xff",
	} {
		if _, err := basicauth.New("a", file(t, text)); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := basicauth.New("a", filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was read")
	}
	for _, user := range []string{"", "a:b", "a\nb"} {
		if _, err := basicauth.New(user, file(t, "sesame")); err == nil {
			t.Errorf("the user name %q was accepted", user)
		}
	}
}
