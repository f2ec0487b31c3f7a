package template_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/template"
)

func TestAnAnswerSaysWhatItMaySay(t *testing.T) {
	facts := template.Facts{RequestID: `a"<b>\` + "\n", Code: "auth.missing", Status: "401", Title: "Unauthorized", Route: "r"}
	for _, c := range []struct{ kind, text, want string }{
		{"application/json", `{"id": "{{ request_id }}", "status": {{status}}}`, `{"id": "a\"\u003cb\u003e\\\n", "status": 401}`},
		{"application/vnd.x+json; charset=utf-8", `["{{ code }} {{ title }} {{ route }}"]`, `["auth.missing Unauthorized r"]`},
		{"text/html", "<p>{{ request_id }}", "<p>a&#34;&lt;b&gt;\\\n"},
		{"application/soap+xml", "<a>{{ request_id }}</a>", "<a>a&#34;&lt;b&gt;\\\n</a>"},
		{"text/plain", "{{ code }}\n{x} }}", "auth.missing\n{x} }}"},
		{"text/plain", "", ""},
	} {
		a, err := template.ParseAnswer(c.kind, c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := string(a.Append(nil, facts)); got != c.want {
			t.Errorf("%s gives %q, want %q", c.text, got, c.want)
		}
	}
}

func TestABadAnswerIsRefused(t *testing.T) {
	for _, c := range []struct{ kind, text, says string }{
		{"application/json", `{"id": {{ request_id }}`, "is not JSON"},
		{"application/json", "", "is not JSON"},
		{"text/plain", "{{ request_id", "not closed"},
		{"text/plain", "{{ requestid }}", "did you mean request_id"},
		{"text/plain", `{{ request.header "Cookie" }}`, "that there is not"},
		{"text/plain", `{{ secret "a" }}`, "that there is not"},
		{"text/plain", "\xff", "UTF-8"},
		{"text/plain", strings.Repeat("a", 17<<10), "longer"},
		{"text/plain", strings.Repeat("{{ code }}", 65), "more than 64"},
		{"text", "a", "media type"},
	} {
		if _, err := template.ParseAnswer(c.kind, c.text); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.40s: %v, want %s", c.text, err, c.says)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(`{"a": "{{ request_id }}"}`, `"}`)
	f.Fuzz(func(t *testing.T, text, id string) {
		a, err := template.ParseAnswer("application/json", text)
		if err != nil {
			return
		}
		// Numbers stand outside of texts as well, and always are numbers.
		if strings.Contains(text, "request_id") && !strings.Contains(text, `"{{ request_id }}"`) {
			return
		}
		got := a.Append(nil, template.Facts{RequestID: id, Status: "500", Code: "1", Title: "1", Route: "1"})
		if strings.Count(text, "{{") == strings.Count(text, `"{{ request_id }}"`) && !json.Valid(got) {
			t.Fatalf("%q with %q gives %q", text, id, got)
		}
	})
}
