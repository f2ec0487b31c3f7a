package template_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/template"
)

// request is what most tests render for. p may be nil.
func request(p *access.Principal) *http.Request {
	r := httptest.NewRequest("POST", "/a%20b/c?a=1&a=2&b=x%0d%0ay&access_token=SECRET", nil)
	r.Header = http.Header{
		"X-Tenant": {"acme", "other"}, "X-Consumer-Role": {"SECRET"}, "Authorization": {"SECRET"}, "Cookie": {"a=SECRET"},
		"X-Evil": {"a\r\nSet-Cookie: b\x00\x7fc\td"}, "X-Long": {strings.Repeat("é", 10<<10)},
	}
	ctx := reqctx.With(r.Context(), &reqctx.Info{
		ID: "id-1", Client: netip.MustParseAddr("10.1.2.3"), Scheme: "https", Host: "api.example.com", Route: "orders", Service: "shop",
	})
	if p != nil {
		ctx = access.WithPrincipal(ctx, p)
	}
	return r.WithContext(ctx)
}

func caller() *access.Principal {
	return &access.Principal{
		Kind: access.KindKey, UserID: "user-1", Role: access.RoleUser, KeyID: "key-1", KeyName: "ci\r\njob",
		Scopes: []string{"orders:read", "orders:write"},
	}
}

func parse(t testing.TB, text string, more ...template.Function) *template.Template {
	t.Helper()
	tpl, err := template.Parse(text, more...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return tpl
}

func TestTemplatesSeeTheRequestAndItsPrincipal(t *testing.T) {
	for text, want := range map[string]string{
		``:                                    "",
		`plain } text {`:                      "plain } text {",
		`{{ request.header "X-Tenant" }}`:     "acme",
		`{{request.header "x-tenant"}}`:       "acme",
		`{{ request.header "X-Missing" }}`:    "",
		`{{ request.query "a" }}`:             "1",
		`{{ request.query "b" }}`:             "xy",
		`{{ request.method }}`:                "POST",
		`{{ request.path }}`:                  "/a b/c",
		`{{ request.host }}`:                  "api.example.com",
		`{{ request.scheme }}`:                "https",
		`{{ request.id }}`:                    "id-1",
		`{{ request.client }}`:                "10.1.2.3",
		`{{ route }}/{{ service }}`:           "orders/shop",
		`{{ principal.user_id }}`:             "user-1",
		`{{ principal.kind }}`:                "key",
		`{{ principal.role }}`:                "user",
		`{{ principal.scopes }}`:              "orders:read orders:write",
		`{{ principal.key_id }}`:              "key-1",
		`{{ principal.key_name }}`:            "cijob",
		`{{ request.header "X-Evil" }}`:       "aSet-Cookie: bcd",
		`a {{ route }} b {{ service }} c`:     "a orders b shop c",
		`{{ "{{" }} {{ route }} {{ "\"}}" }}`: `{{ orders "}}`,
		`é {{ route }}`:                       "é orders",
	} {
		if got := parse(t, text).Render(request(caller())); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestAnonymousCallersGiveNothing(t *testing.T) {
	tpl := parse(t, `[{{ principal.user_id }}{{ principal.kind }}{{ principal.role }}{{ principal.scopes }}{{ principal.key_id }}{{ principal.key_name }}]`)
	if got := tpl.Render(request(nil)); got != "[]" {
		t.Errorf("%q", got)
	}
	if !tpl.UsesPrincipal() || parse(t, "{{ route }}").UsesPrincipal() {
		t.Error("it is not known who asks for the principal")
	}
}

func TestWrongTemplatesAreRefusedWithTheirPlace(t *testing.T) {
	for text, want := range map[string]string{
		`{{ request.heder "a" }}`:               `column 4: there is no request.heder, did you mean request.header?`,
		`é {{ nothing }}`:                       `column 6: there is no nothing`,
		`{{ route`:                              `column 1: this action is not closed with }}`,
		`{{ route } }`:                          `column 1: this action is not closed with }}`,
		`{{ }}`:                                 `column 4: this action names nothing`,
		`{{`:                                    `column 1: this action is not closed with }}`,
		`{{ route service }}`:                   `column 10: expected }}; an action is a name and at most one text in double quotes`,
		`{{ route "a" }}`:                       `column 10: route takes nothing`,
		`{{ request.header }}`:                  `column 4: request.header needs the name of a header field, such as {{ request.header "name" }}`,
		`{{ request.query "" }}`:                `column 4: request.query needs the name of a query parameter, such as {{ request.query "name" }}`,
		`{{ request.header 'a' }}`:              `column 19: texts stand in double quotes`,
		`{{ request.header "a }}`:               `column 19: this text is not closed`,
		`{{ request.header "a b" }}`:            `column 19: this cannot be the name of a header field`,
		`{{ request.header "Authorization" }}`:  `column 19: what may hold a credential is never shown; the caller is in principal`,
		`{{ request.header "cookie" }}`:         `column 19: what may hold a credential is never shown; the caller is in principal`,
		`{{ request.query "access_token" }}`:    `column 18: what may hold a credential is never shown; the caller is in principal`,
		`{{ request.header "X-Consumer" }}`:     `column 19: this field is set by the gateway alone, and what a client sends as such is dropped`,
		`{{ request.cookie "a" }}`:              `column 4: there is no request.cookie`,
		"a\nb":                                  `column 2: holds a control character`,
		`{{ "a\nb" }}`:                          `column 4: holds a control character`,
		"\xff":                                  `column 1: is not valid UTF-8`,
		`{{ "\xff" }}`:                          `column 4: this text cannot be read`,
		strings.Repeat("a", template.MaxText+1): `column 1: is longer than 4096 bytes`,
		strings.Repeat("{{route}}", 65):         `column 577: there are more than 64 actions`,
	} {
		_, err := template.Parse(text)
		var e *template.Error
		if !errors.As(err, &e) {
			t.Errorf("%.50q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, e.Error()); diff != "" {
			t.Errorf("%.50q: %s", text, diff)
		}
	}
}

func TestFunctionsCanBeAdded(t *testing.T) {
	secret := template.Function{Name: "secret", Argument: "a secret", Make: func(name string) (template.Value, error) {
		if name != "db" {
			return nil, errors.New("there is no such secret")
		}
		return func(dst []byte, _ *http.Request) []byte { return append(dst, "hidden\n"...) }, nil
	}}
	if got := parse(t, `<{{ secret "db" }}>`, secret).Render(request(nil)); got != "<hidden>" {
		t.Errorf("%q", got)
	}
	if _, err := template.Parse(`{{ secret "other" }}`, secret); err == nil || !strings.Contains(err.Error(), "no such secret") {
		t.Error(err)
	}
	if _, err := template.Parse(`{{ secret "db" }}`); err == nil {
		t.Error("a function is known that was not given")
	}
}

func TestOutputIsBounded(t *testing.T) {
	tpl := parse(t, strings.Repeat(`{{ request.header "X-Long" }}`, 3)+"end")
	got := tpl.Append([]byte("before"), request(nil))
	if len(got) > len("before")+template.MaxOutput || len(got) < template.MaxOutput || !utf8.Valid(got) {
		t.Errorf("%d bytes, valid %v", len(got), utf8.Valid(got))
	}
}

// SBX-01: what a request brings is a value and never a template.
func TestValuesAreNoTemplates(t *testing.T) {
	for _, value := range []string{`{{ principal.user_id }}`, `{{env "HOME"}}`, "{file./etc/passwd}", "${jndi:ldap://127.0.0.1/a}", "{{.Config}}", `"}}`} {
		r := request(caller())
		r.Header.Set("X-A", value)
		if got := parse(t, `{{ request.header "X-A" }}`).Render(r); got != value {
			t.Errorf("%s became %q", value, got)
		}
	}
}

// TestNothingBreaksOutOfALine holds whatever the request is (SBX-03).
func TestNothingBreaksOutOfALine(t *testing.T) {
	tpl := parse(t, `x{{ request.header "X-A" }}{{ request.query "a" }}{{ request.path }}{{ request.host }}{{ request.id }}`+
		`{{ request.method }}{{ route }}{{ principal.key_name }}{{ principal.scopes }}{{ principal.user_id }}`)
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		r := request(nil)
		r.Method, r.URL.Path, r.URL.RawQuery = text.Draw(t, "method"), text.Draw(t, "path"), "a=%0d%0a"+text.Draw(t, "query")
		r.Header["X-A"] = []string{text.Draw(t, "field")}
		ctx := reqctx.With(r.Context(), &reqctx.Info{ID: text.Draw(t, "id"), Host: text.Draw(t, "host"), Route: text.Draw(t, "route")})
		ctx = access.WithPrincipal(ctx, &access.Principal{
			UserID: text.Draw(t, "user"), KeyName: text.Draw(t, "key"), Scopes: []string{text.Draw(t, "scope"), text.Draw(t, "scope")},
		})
		got := tpl.Render(r.WithContext(ctx))
		if strings.ContainsAny(got, "\r\n\x00\x7f\t\x1b") || len(got) > template.MaxOutput || !strings.HasPrefix(got, "x") {
			t.Fatalf("%q", got)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`a {{ request.header "X-Tenant" }} b`, `{{ "{{" }}`, `{{route}}{{ service }}`, `{{ request.query "a b" }}`, `{{ x`, `{{ "\u00e9" }}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tpl, err := template.Parse(text)
		var wrong *template.Error
		if err != nil {
			if !errors.As(err, &wrong) || wrong.Column < 1 || wrong.Offset > len(text) || wrong.Reason == "" {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		got := tpl.Render(request(caller()))
		if strings.ContainsAny(got, "\r\n\x00\x7f") || len(got) > template.MaxOutput || strings.Contains(got, "SECRET") && !strings.Contains(text, "SECRET") {
			t.Fatalf("%q gives %q", text, got)
		}
		if literal, ok := tpl.Literal(); ok && literal != got {
			t.Fatalf("%q gives %q, and says it is always %q", text, got, literal)
		}
	})
}

func TestLiteralTextCostsNothing(t *testing.T) {
	tpl, r := parse(t, `max-age=60`), request(nil)
	if n := testing.AllocsPerRun(100, func() { _ = tpl.Render(r) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRender(b *testing.B) {
	tpl, r := parse(b, `{{ request.header "X-Tenant" }}/{{ principal.user_id }}`), request(caller())
	b.Run("render", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = tpl.Render(r)
		}
	})
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		var space [128]byte
		for b.Loop() {
			_ = tpl.Append(space[:0], r)
		}
	})
}
