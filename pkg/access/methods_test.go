package access_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// verifier notes what it is asked and answers what it is told.
type verifier struct {
	asked  []string
	client netip.Addr
	answer *access.Principal
	err    error
}

func (v *verifier) VerifyKeyAt(_ context.Context, key string, client netip.Addr, _ time.Time) (*access.Principal, error) {
	v.asked, v.client = append(v.asked, "key "+key), client
	return v.answer, v.err
}

func (v *verifier) VerifyToken(_ context.Context, token string) (*access.Principal, error) {
	v.asked = append(v.asked, "token "+token)
	return v.answer, v.err
}

func newAuthenticator(v *verifier) *access.Authenticator {
	return access.NewAuthenticator(v, v, "kw", "test")
}

func request(t *testing.T, header http.Header) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header = header
	return r
}

const (
	bare    = `Bearer realm="test"`
	invalid = `Bearer realm="test", error="invalid_token"`
)

func TestAuthenticatorFindsTheOneCredential(t *testing.T) {
	const auth, key = "Authorization", "X-Api-Key"
	for _, c := range []struct {
		name      string
		header    http.Header
		asked     string // of the verifiers; empty for nothing
		err       error
		status    int
		challenge string
	}{
		{"nothing", nil, "", access.ErrMissing, 401, bare},
		{"no header of ours", http.Header{"Cookie": {"a=b"}, "X-Api-Keys": {"kw_x"}, "X_api_key": {"kw_x"}}, "", access.ErrMissing, 401, bare},
		{"token", http.Header{auth: {"Bearer eyJ.a.b"}}, "token eyJ.a.b", nil, 0, ""},
		{"key as bearer", http.Header{auth: {"Bearer kw_live_x"}}, "key kw_live_x", nil, 0, ""},
		{"key in its header", http.Header{key: {"kw_live_x"}}, "key kw_live_x", nil, 0, ""},
		{"key of another kind in its header", http.Header{key: {"eyJ.a.b"}}, "key eyJ.a.b", nil, 0, ""},
		{"bearer with the prefix alone", http.Header{auth: {"Bearer kw_"}}, "key kw_", nil, 0, ""},
		{"bearer with the prefix but for the underscore", http.Header{auth: {"Bearer kwlive"}}, "token kwlive", nil, 0, ""},
		{"bearer with the prefix in capitals", http.Header{auth: {"Bearer KW_live_x"}}, "token KW_live_x", nil, 0, ""},
		{"bearer with the prefix in the middle", http.Header{auth: {"Bearer x.kw_live"}}, "token x.kw_live", nil, 0, ""},
		{"scheme in lower case", http.Header{auth: {"bearer eyJ.a.b"}}, "token eyJ.a.b", nil, 0, ""},
		{"scheme in capitals", http.Header{auth: {"BEARER kw_live_x"}}, "key kw_live_x", nil, 0, ""},
		{"more spaces", http.Header{auth: {"Bearer   eyJ.a.b "}}, "token eyJ.a.b", nil, 0, ""},
		{"two tokens in one line", http.Header{auth: {"Bearer eyJ.a.b, Bearer eyJ.c.d"}}, "token eyJ.a.b, Bearer eyJ.c.d", nil, 0, ""},

		{"empty Authorization", http.Header{auth: {""}}, "", access.ErrMissing, 401, bare},
		{"scheme alone", http.Header{auth: {"Bearer"}}, "", access.ErrMissing, 401, bare},
		{"scheme and a space", http.Header{auth: {"Bearer "}}, "", access.ErrMissing, 401, bare},
		{"scheme and spaces", http.Header{auth: {"Bearer    "}}, "", access.ErrMissing, 401, bare},
		{"scheme without a space", http.Header{auth: {"BearereyJ.a.b"}}, "", access.ErrMissing, 401, bare},
		{"tab after the scheme", http.Header{auth: {"Bearer\teyJ.a.b"}}, "", access.ErrMissing, 401, bare},
		{"space before the scheme", http.Header{auth: {" Bearer eyJ.a.b"}}, "", access.ErrMissing, 401, bare},
		{"another scheme", http.Header{auth: {"Basic a3dfbGl2ZQ=="}}, "", access.ErrMissing, 401, bare},
		{"token without a scheme", http.Header{auth: {"eyJ.a.b"}}, "", access.ErrMissing, 401, bare},
		{"key without a scheme", http.Header{auth: {"kw_live_x"}}, "", access.ErrMissing, 401, bare},
		{"empty key", http.Header{key: {""}}, "", access.ErrKey, 401, invalid},

		{"both headers", http.Header{auth: {"Bearer eyJ.a.b"}, key: {"kw_live_x"}}, "", access.ErrAmbiguous, 400, ""},
		{"both headers with the same key", http.Header{auth: {"Bearer kw_live_x"}, key: {"kw_live_x"}}, "", access.ErrAmbiguous, 400, ""},
		{"both headers, one empty", http.Header{auth: {""}, key: {"kw_live_x"}}, "", access.ErrAmbiguous, 400, ""},
		{"both headers, another scheme", http.Header{auth: {"Basic a:b"}, key: {"kw_live_x"}}, "", access.ErrAmbiguous, 400, ""},
		{"two Authorization lines", http.Header{auth: {"Bearer eyJ.a.b", "Bearer eyJ.a.b"}}, "", access.ErrAmbiguous, 400, ""},
		{"two key lines", http.Header{key: {"kw_live_x", "kw_live_y"}}, "", access.ErrAmbiguous, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &verifier{answer: &access.Principal{UserID: "u"}}
			p, err := newAuthenticator(v).Authenticate(request(t, c.header), access.AnyMethod)
			if got := strings.Join(v.asked, "; "); got != c.asked {
				t.Errorf("asked %q, want %q", got, c.asked)
			}
			if c.err == nil {
				if err != nil || p != v.answer {
					t.Fatalf("got %v, %v", p, err)
				}
				return
			}
			if p != nil || !errors.Is(err, c.err) {
				t.Fatalf("got %v, %v; want %v", p, err, c.err)
			}
			refused := problem.From(err)
			if refused.Kind.Status() != c.status || refused.Challenge != c.challenge {
				t.Errorf("%d with challenge %q; want %d with %q", refused.Kind.Status(), refused.Challenge, c.status, c.challenge)
			}
		})
	}
}

func TestAuthenticatorAcceptsOnlyTheMethodsOfTheRoute(t *testing.T) {
	token := http.Header{"Authorization": {"Bearer eyJ.a.b"}}
	bearerKey, key := http.Header{"Authorization": {"Bearer kw_x"}}, http.Header{"X-Api-Key": {"kw_x"}}
	for _, c := range []struct {
		name   string
		header http.Header
		accept access.Methods
		ok     bool
	}{
		{"token where tokens are", token, access.MethodToken, true},
		{"token where keys are", token, access.MethodKey, false},
		{"key where keys are", key, access.MethodKey, true},
		{"key where tokens are", key, access.MethodToken, false},
		{"bearer key where tokens are", bearerKey, access.MethodToken, false},
		{"token where nothing is", token, 0, false},
		{"key where nothing is", key, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &verifier{answer: &access.Principal{}}
			_, err := newAuthenticator(v).Authenticate(request(t, c.header), c.accept)
			if c.ok {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, access.ErrMethod) || len(v.asked) > 0 {
				t.Errorf("got %v after asking %q", err, v.asked)
			}
			if got := problem.From(err).Challenge; got != bare {
				t.Errorf("challenge %q", got)
			}
		})
	}
}

func TestOnlyRefusedCredentialsAreChallenged(t *testing.T) {
	for _, c := range []struct {
		err       error
		status    int
		challenge string
	}{
		{access.ErrKey, 401, invalid},
		{access.ErrToken.With(errors.New("signature")), 401, invalid},
		{access.ErrAddress, 403, ""},
		{access.ErrThrottled.WithRetryAfter(time.Minute), 429, ""},
		{access.ErrUndecided.WithRetryAfter(time.Second), 503, ""},
		{errors.New("bug"), 500, ""},
	} {
		v := &verifier{err: c.err}
		p, err := newAuthenticator(v).Authenticate(request(t, http.Header{"X-Api-Key": {"kw_x"}}), access.AnyMethod)
		got := problem.From(err)
		if p != nil || !errors.Is(err, c.err) || got.Kind.Status() != c.status || got.Challenge != c.challenge {
			t.Errorf("%v: got %v, %d, challenge %q", c.err, err, got.Kind.Status(), got.Challenge)
		}
		if got.RetryAfter != problem.From(c.err).RetryAfter {
			t.Errorf("%v: Retry-After became %v", c.err, got.RetryAfter)
		}
	}
	if access.ErrKey.Challenge != "" || access.ErrMissing.Challenge != "" {
		t.Error("the defined errors were changed")
	}
}

func TestKeysAreCheckedForTheCallersAddress(t *testing.T) {
	v := &verifier{answer: &access.Principal{}}
	client := netip.MustParseAddr("203.0.113.7")
	r := request(t, http.Header{"X-Api-Key": {"kw_x"}})
	r = r.WithContext(reqctx.With(r.Context(), &reqctx.Info{Client: client}))
	if _, err := newAuthenticator(v).Authenticate(r, access.AnyMethod); err != nil || v.client != client {
		t.Errorf("checked for %v, %v", v.client, err)
	}
	if _, err := newAuthenticator(v).Authenticate(request(t, r.Header), access.AnyMethod); err != nil || v.client.IsValid() {
		t.Errorf("without a known address checked for %v, %v", v.client, err)
	}
}

// The header's name is case-insensitive on the wire; net/http makes it one.
func TestKeyHeaderIsFoundInEverySpellingOfTheWire(t *testing.T) {
	for _, name := range []string{"x-api-key", "X-API-KEY", "X-Api-Key", "x-API-kEY"} {
		v := &verifier{answer: &access.Principal{}}
		header := http.Header{}
		header.Set(name, "kw_x")
		if _, err := newAuthenticator(v).Authenticate(request(t, header), access.AnyMethod); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRequireNamesTheMissingScope(t *testing.T) {
	p := &access.Principal{Scopes: []string{"a:read", "b:read"}}
	if err := access.Require(p, "b:read"); err != nil {
		t.Errorf("a held scope: %v", err)
	}
	err := access.Require(p, "b:write")
	refused := problem.From(err)
	if !errors.Is(err, access.ErrScope) || refused.Kind.Status() != http.StatusForbidden ||
		!strings.Contains(refused.Detail, "b:write") || refused.Challenge != `Bearer error="insufficient_scope", scope="b:write"` {
		t.Errorf("got %+v", refused)
	}
	if err := access.Require(nil, "a:read"); !errors.Is(err, access.ErrMissing) {
		t.Errorf("nobody: %v", err)
	}
}

func TestPrincipalTravelsInTheContext(t *testing.T) {
	p := &access.Principal{UserID: "u"}
	if got := access.PrincipalFrom(access.WithPrincipal(t.Context(), p)); got != p {
		t.Errorf("got %v", got)
	}
	if got := access.PrincipalFrom(t.Context()); got != nil {
		t.Errorf("nobody is %v", got)
	}
	var nobody *access.Principal
	if nobody.Has("a") || (&access.Principal{}).Has("a") || (&access.Principal{}).Has("") {
		t.Error("nobody holds a scope")
	}
}

func TestHeldScopesAreFoundExactly(t *testing.T) {
	p := &access.Principal{Scopes: []string{"a", "a:b", "c:d"}}
	got := map[string]bool{}
	for _, s := range []string{"a", "a:b", "c:d", "", "*", "a:", "A", "a:b:c", "c", "z"} {
		got[s] = p.Has(s)
	}
	want := map[string]bool{"a": true, "a:b": true, "c:d": true, "": false, "*": false, "a:": false, "A": false, "a:b:c": false, "c": false, "z": false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	all := &access.Principal{Scopes: []string{access.Wildcard}}
	if !all.Has("anything:at:all") {
		t.Error("the wildcard does not stand for every scope")
	}
}
