package credential_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

func TestAFieldCarriesTheSecret(t *testing.T) {
	c := newMaker(t).make(services.Credential{Kind: "header", Name: "x-api-key", Value: `k={{ secret "key" }}`})
	out := request(t, "/")
	for _, spelling := range []string{"X-Api-Key", "X.Api.Key", "x-api-key", "X-API-KEY", "X~Api~Key"} {
		out.Header[spelling] = []string{"the caller's"}
	}
	out.Header.Set("X-Other", "stays")
	presented, err := c.Apply(out, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"X-Api-Key": {"k=" + canary + "-key"}, "X-Other": {"stays"}}
	if diff := cmp.Diff(want, out.Header); diff != "" {
		t.Error(diff)
	}
	if c.Renew(t.Context(), presented, true) {
		t.Error("there is another value")
	}
}

func TestAPasswordIsPresentedAsBasic(t *testing.T) {
	c := newMaker(t).make(services.Credential{Kind: "basic", Username: "gateway", Password: `{{ secret "password" }}`})
	out := request(t, "/")
	out.Header["authorization"] = []string{"Bearer the caller's"}
	if _, err := c.Apply(out, nil); err != nil {
		t.Fatal(err)
	}
	user, password, ok := out.BasicAuth()
	if !ok || user != "gateway" || password != canary+"-päss:wörd" || len(out.Header) != 1 {
		t.Errorf("%q", out.Header)
	}
}

// TestNothingOfTheCallersIsLeftUnderTheNameOfAParameter takes what servers make of
// queries: the first value counts in some, the last in others, and spellings differ.
func TestNothingOfTheCallersIsLeftUnderTheNameOfAParameter(t *testing.T) {
	c := newMaker(t).make(services.Credential{Kind: "query", Name: "api_key", Value: `{{ secret "client" }}`})
	secret := "api_key=" + url.QueryEscape(canary+"-client&=+ %")
	for query, kept := range map[string]string{
		"":                            "",
		"a=1&b=%20+2&&c":              "a=1&b=%20+2&&c&",
		"api_key=x":                   "",
		"api_key":                     "",
		"a=1&api_key=x&b=2":           "a=1&b=2&",
		"api_key=x&a=1&API_KEY=y":     "a=1&",
		"api%5Fkey=x&a=1":             "a=1&",
		"api%5fkey=x;a=1":             "a=1&",
		"a=1;api_key=x":               "a=1&",
		"a=1;b=2":                     "a=1;b=2&",
		"api.key=x&api%20key=x&a=1":   "a=1&",
		"api+key=x&+api_key=x":        "",
		"api_key[]=x&api_key%5B0%5D=": "",
		"api_key%00.png=x":            "",
		"%zz=x&a=1&b=%zz":             "a=1&b=%zz&",
		"%u0061pi_key=x":              "",
		"xapi_key=1&api_keys=2":       "xapi_key=1&api_keys=2&",
		"a=api_key=x":                 "a=api_key=x&",
	} {
		out := request(t, "/")
		out.URL.RawQuery = query
		if _, err := c.Apply(out, nil); err != nil {
			t.Fatal(err)
		}
		if got := out.URL.RawQuery; got != kept+secret {
			t.Errorf("%s becomes %s, want %s", query, got, kept+secret)
		}
	}
}

func FuzzParameter(f *testing.F) {
	f.Add("a=1&api_key=x;API.KEY=2&%zz")
	f.Add("api_key[=&&;=")
	all, err := credential.NewCredentials(credential.Options{Secrets: newVault(), Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(all.Close)
	c, err := all.New("orders", &services.Credential{Kind: "query", Name: "api_key", Value: `{{ secret "key" }}`})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, query string) {
		out := request(t, "/")
		out.URL.RawQuery = query
		if _, err := c.Apply(out, nil); err != nil {
			t.Fatal(err)
		}
		got := out.URL.RawQuery
		for _, read := range []string{got, strings.ReplaceAll(got, ";", "&")} {
			values, _ := url.ParseQuery(read)
			n := 0
			for name, list := range values {
				if header.Same(name, "api_key") {
					n += len(list)
				}
			}
			if n != 1 || values.Get("api_key") != canary+"-key" {
				t.Fatalf("%q becomes %q: %q", query, got, values)
			}
		}
		// Nothing is lost of what a reader of this language sees of the others.
		before, _ := url.ParseQuery(query)
		after, _ := url.ParseQuery(got)
		for name, list := range before {
			if !header.Same(name, "api_key") && !strings.ContainsAny(name, "[\x00 ") && len(after[name]) < len(list) {
				t.Fatalf("%q becomes %q", query, got)
			}
		}
		// Nothing is added to it by a second time.
		again := request(t, "/")
		again.URL.RawQuery = got
		if _, err := c.Apply(again, nil); err != nil || strings.TrimLeft(again.URL.RawQuery, "&;") != strings.TrimLeft(got, "&;") {
			t.Fatalf("%q becomes %q", got, again.URL.RawQuery)
		}
	})
}

// TestNothingIsSentWithoutItsSecret also holds errors not to quote any.
func TestNothingIsSentWithoutItsSecret(t *testing.T) {
	m := newMaker(t)
	m.secrets.put("spaces", " "+canary)
	m.secrets.put("long", canary+strings.Repeat("x", 9<<10))
	for name, of := range map[string]services.Credential{
		"no such secret":    {Kind: "header", Value: `{{ secret "none" }}`},
		"of two, one":       {Kind: "header", Value: `{{ secret "key" }}{{ secret "none" }}`},
		"a line break":      {Kind: "header", Value: `{{ secret "lines" }}`},
		"spaces around it":  {Kind: "header", Value: `{{ secret "spaces" }}`},
		"too long":          {Kind: "header", Value: `{{ secret "long" }}`},
		"in the query":      {Kind: "query", Name: "key", Value: `{{ secret "none" }}`},
		"of a password":     {Kind: "basic", Username: "u", Password: `{{ secret "none" }}`},
		"of a user":         {Kind: "basic", Username: `{{ secret "none" }}`, Password: `{{ secret "key" }}`},
		"of a client":       {Kind: "oauth2", TokenURL: "http://127.0.0.1:1/", ClientID: "c", ClientSecret: `{{ secret "none" }}`},
		"no signer":         {Kind: "identity"},
		"a closed endpoint": {Kind: "oauth2", TokenURL: "http://127.0.0.1:1/?" + canary, ClientID: "c", ClientSecret: `{{ secret "key" }}`},
	} {
		c := m.make(of)
		out := request(t, "/?a=1")
		out.Header.Set("X-Mark", "1")
		_, err := c.Apply(out, &access.Principal{UserID: "u"})
		if !errors.Is(err, credential.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
}

func TestARequestThatHasEndedIsNotBlamedOnTheCredential(t *testing.T) {
	c := newMaker(t).make(services.Credential{Kind: "header", Value: `{{ secret "none" }}`})
	gone := errors.New("the client went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := c.Apply(request(t, "/").WithContext(ctx), nil); !errors.Is(err, gone) || errors.Is(err, credential.ErrUnavailable) {
		t.Error(err)
	}
}

// signer counts what it signs.
type signer struct {
	last session.Identity
	n    int
	err  error
}

func (s *signer) SignIdentity(i session.Identity, ttl time.Duration) (seal.Secret, error) {
	s.last = i
	s.n++
	return seal.NewSecret(fmt.Sprintf("token-%d-%s-%s", s.n, i.Subject, ttl)), s.err
}

func TestAServiceIsToldWhoCalls(t *testing.T) {
	m, s := newMaker(t), &signer{}
	m.signer = s
	c := m.make(services.Credential{Kind: "identity"})
	key := &access.Principal{
		Kind: access.KindKey, UserID: "u1", Role: access.RoleUser, Scopes: []string{"a", "b"}, KeyID: "k1", KeyName: "any text", App: "a1",
	}
	apply := func(p *access.Principal) http.Header {
		out := request(t, "/")
		out.Header["X-Keywarden-Identity"] = []string{"the caller's"}
		out.Header["X.keywarden.identity"] = []string{"the caller's"}
		if _, err := c.Apply(out, p); err != nil {
			t.Fatal(err)
		}
		return out.Header
	}
	want := http.Header{"X-Keywarden-Identity": {"token-1-u1-1m0s"}}
	for _, after := range []time.Duration{0, 29 * time.Second} {
		m.clock.advance(after)
		if diff := cmp.Diff(want, apply(key)); diff != "" {
			t.Errorf("after %s: %s", after, diff)
		}
	}
	if diff := cmp.Diff(session.Identity{
		Subject: "u1", Audience: "orders", Kind: "key", Role: "user", Scope: "a b", KeyID: "k1", AppID: "a1",
	}, s.last); diff != "" {
		t.Error(diff)
	}
	m.clock.advance(time.Second)
	if got := apply(key).Get("X-Keywarden-Identity"); got != "token-2-u1-1m0s" {
		t.Errorf("after half its life there is still %s", got)
	}
	// The same user with other rights is another caller.
	less := *key
	less.Scopes = nil
	if got := apply(&less).Get("X-Keywarden-Identity"); got != "token-3-u1-1m0s" || s.last.Scope != "" {
		t.Errorf("%s, %+v", got, s.last)
	}
	if got := apply(nil); len(got) != 0 {
		t.Errorf("of a stranger it is told %q", got)
	}
	apply(&access.Principal{Kind: access.KindCertificate, UserID: "sha256:ab", KeyName: "client.example.com"})
	if s.last.Name != "client.example.com" {
		t.Errorf("%+v", s.last)
	}
}

func TestAnIdentityCanBeABearer(t *testing.T) {
	m := newMaker(t)
	m.signer = &signer{}
	c := m.make(services.Credential{Kind: "identity", Name: "authorization", Audience: "https://orders.internal"})
	out := request(t, "/")
	if _, err := c.Apply(out, &access.Principal{UserID: "u"}); err != nil || out.Header.Get("Authorization") != "Bearer token-1-u-1m0s" {
		t.Errorf("%q, %v", out.Header, err)
	}
	m.signer.(*signer).err = errNoSecret //nolint:forcetypeassert // made above
	if _, err := c.Apply(out, &access.Principal{UserID: "v"}); !errors.Is(err, credential.ErrUnavailable) {
		t.Error(err)
	}
}

func BenchmarkField(b *testing.B) {
	all, err := credential.NewCredentials(credential.Options{Secrets: newVault(), Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(all.Close)
	c, err := all.New("orders", &services.Credential{Kind: "header", Name: "Authorization", Value: `Bearer {{ secret "key" }}`})
	if err != nil {
		b.Fatal(err)
	}
	out, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://a/", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Apply(out, nil); err != nil {
			b.Fatal(err)
		}
	}
}
