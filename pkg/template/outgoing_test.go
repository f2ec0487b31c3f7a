package template_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/template"
)

// vault has secrets by their names.
type vault map[string]string

var errNoSecret = errors.New("there is none")

// Secret implements template.Secrets.
func (v vault) Secret(_ context.Context, name string) (seal.Secret, error) {
	if value, ok := v[name]; ok {
		return seal.NewSecret(value), nil
	}
	return seal.Secret{}, errNoSecret
}

func outgoing(t testing.TB, text string) *template.Outgoing {
	t.Helper()
	o, err := template.ParseOutgoing(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

func TestSecretsAreShownToTheServiceAlone(t *testing.T) {
	from := vault{"db": "canary {{ route }}", "other": "canary2"}
	for text, want := range map[string][2]string{
		`{{ secret "db" }}`:                              {"canary {{ route }}", "[redacted]"},
		`Bearer {{secret "db"}}.`:                        {"Bearer canary {{ route }}.", "Bearer [redacted]."},
		`{{ route }}:{{ secret "other" }}{{ service }}`:  {"orders:canary2shop", "orders:[redacted]shop"},
		`{{ secret "db" }}{{ secret "other" }}`:          {"canary {{ route }}canary2", "[redacted][redacted]"},
		`{{ request.header "X-Evil" }}{{ secret "db" }}`: {"aSet-Cookie: bcdcanary {{ route }}", "aSet-Cookie: bcd[redacted]"},
	} {
		o := outgoing(t, text)
		value, shown, err := o.Render(request(caller()), from)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, [2]string{value.Reveal(), shown}); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
		if _, plain := o.Plain(); plain {
			t.Errorf("%s is said to hold no secret", text)
		}
		if printed := fmt.Sprintf("%v %+v %#v", value, o, o); strings.Contains(printed, "canary") {
			t.Errorf("it is printed as %s", printed)
		}
	}
	o := outgoing(t, `{{ secret "a" }}{{ route }}{{ secret "b" }}{{ secret "a" }}`)
	if diff := cmp.Diff([]string{"a", "b"}, o.Secrets()); diff != "" {
		t.Error(diff)
	}
	plain, ok := outgoing(t, `a {{ route }}`).Plain()
	if !ok || plain.Render(request(nil)) != "a orders" {
		t.Error("a template without secrets is not a plain one")
	}
}

// A text is whole or there is none, and no error holds a value.
func TestTextsThatLackASecretAreNotMade(t *testing.T) {
	from := vault{
		"ok": "canary-ok", "lines": "canary\nX-Evil: 1", "nul": "canary\x00", "cr": "canary\r", "tab": "canary\t", "del": "canary\x7f",
		"long": strings.Repeat("canary", template.MaxOutput),
	}
	for _, name := range []string{"lines", "nul", "cr", "tab", "del", "long", "missing"} {
		for _, text := range []string{`{{ secret "%s" }}`, `{{ secret "ok" }} {{ secret "%s" }}`, `{{ secret "%s" }} {{ secret "ok" }}`} {
			text = fmt.Sprintf(text, name)
			value, shown, err := outgoing(t, text).Render(request(nil), from)
			if err == nil || !value.Empty() || shown != "" || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %d bytes, %q, %v", text, len(value.Reveal()), shown, err)
			}
		}
	}
	if _, _, err := outgoing(t, `{{ secret "missing" }}`).Render(request(nil), from); !errors.Is(err, errNoSecret) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("%v", err)
	}
	if _, _, err := outgoing(t, `{{ secret "ok" }}`).Render(request(nil), nil); err == nil {
		t.Error("there is a text without any secrets")
	}
	// What a request brings is bounded with it.
	if _, _, err := outgoing(t, `{{ secret "ok" }}{{ request.header "X-Long" }}`).Render(request(nil), from); err == nil {
		t.Error("a text that is too long is made")
	}
}

func TestSecretsAreRefusedWhereOthersWouldSeeThem(t *testing.T) {
	for text, want := range map[string]string{
		`a {{ secret "db" }}`: `column 6: a secret can only be in what goes to the service, such as request_headers`,
		`{{ secret }}`:        `column 4: a secret can only be in what goes to the service, such as request_headers`,
	} {
		if _, err := template.Parse(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		`{{ secret }}`:         `column 4: secret needs the name of a secret, such as {{ secret "name" }}`,
		`{{ secret "a/b" }}`:   `column 11: this cannot be the name of a secret: up to 64 letters, digits, '.', '_' and '-', with a letter or digit at the beginning`,
		`{{ secrt "a" }}`:      `column 4: there is no secrt, did you mean secret?`,
		`{{ secret "a" "b" }}`: `column 15: expected }}; an action is a name and at most one text in double quotes`,
	} {
		if _, err := template.ParseOutgoing(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func FuzzParseOutgoing(f *testing.F) {
	for _, text := range []string{`a {{ secret "db" }} b`, `{{secret "db"}}{{ secret "x.y" }}`, `{{ secret "a/b" }}`, `{{ secret`, `{{ route }}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := template.ParseOutgoing(text)
		if err != nil {
			return
		}
		from := vault{}
		for _, name := range o.Secrets() {
			from[name] = "\u2603canary\u2603"
		}
		value, shown, err := o.Render(request(caller()), from)
		if err != nil {
			if strings.Contains(err.Error(), "\u2603canary\u2603") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if strings.ContainsAny(value.Reveal(), "\r\n\x00\x7f") || strings.Contains(shown, "\u2603canary\u2603") && !strings.Contains(text, "canary") {
			t.Fatalf("%q gives %q and shows %q", text, value.Reveal(), shown)
		}
		if _, err := template.Parse(text); (err == nil) != (len(o.Secrets()) == 0) {
			t.Fatalf("%q: %v, with the secrets %q", text, err, o.Secrets())
		}
	})
}
