package attacktest

import (
	"strings"
	"testing"
)

func TestUnescapeGivesTheBytesTheCaseNames(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		`GET / HTTP/1.1\r\n\r\n`: "GET / HTTP/1.1\r\n\r\n",
		`a\tb\\c\"d`:             "a\tb\\c\"d",
		`\x00\xff\x0A`:           "\x00\xff\n",
		`\0`:                     "\x00",
		"caf\u00e9":              "caf\xe9",
		`\\r`:                    `\r`,
		`{{HOST}}`:               `{{HOST}}`,
	} {
		got, err := unescape(in)
		if err != nil || got != want {
			t.Errorf("unescape(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestUnescapeRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, in := range []string{`\q`, `\`, `a\`, `\x`, `\x4`, `\xg0`, `\u0041`, "\u0100", "\U0001f511"} {
		if got, err := unescape(in); err == nil {
			t.Errorf("unescape(%q) = %q, want an error", in, got)
		}
	}
}

// FuzzUnescape holds unescape to its inverse: a payload written with an escape
// for each byte comes back as those bytes.
func FuzzUnescape(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), `\r\n\x00`)
	f.Fuzz(func(t *testing.T, payload []byte, arbitrary string) {
		_, _ = unescape(arbitrary)
		var written strings.Builder
		for _, b := range payload {
			written.WriteString(`\x`)
			written.WriteByte("0123456789abcdef"[b>>4])
			written.WriteByte("0123456789abcdef"[b&15])
		}
		got, err := unescape(written.String())
		if err != nil || got != string(payload) {
			t.Fatalf("got %q, %v, want %q", got, err, payload)
		}
	})
}

func TestSubstitutePutsValuesIn(t *testing.T) {
	vars := variables{"HOST": "127.0.0.1:1", "ODD": "a\"\\\n<b>"}
	got, err := vars.substitute("Host: {{HOST}}, {{HOST}} {{REPEAT:a:3}} {HOST}", verbatim)
	if want := "Host: 127.0.0.1:1, 127.0.0.1:1 {{REPEAT:a:3}} {HOST}"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	got, err = vars.substitute(`{"a":"{{ODD}}"}`, quoteJSON)
	if want := `{"a":"a\"\\\n<b>"}`; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestQuoteJSONKeepsQuotesAtTheEnds(t *testing.T) {
	if got, want := quoteJSON(`"a"`), `\"a\"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSubstituteRefusesUndefinedVariable(t *testing.T) {
	got, err := variables{"A": "1"}.substitute("{{A}} {{KEY_B}} {{TOK}} {{TOK}}", verbatim)
	if err == nil || !strings.Contains(err.Error(), "KEY_B, TOK") || strings.Contains(err.Error(), "TOK, TOK") {
		t.Errorf("got %q, %v, want an error that names KEY_B and TOK once", got, err)
	}
}

func TestExpandRepeatsRepeats(t *testing.T) {
	for in, want := range map[string]string{
		"a{{REPEAT:x:3}}b":                 "axxxb",
		"{{REPEAT:[:4}}":                   "[[[[",
		`{{REPEAT:{"a"::2}}`:               `{"a":{"a":`,
		"{{REPEAT:a\r\nb:2}}":              "a\r\nba\r\nb",
		"{{REPEAT:a:0}}":                   "",
		"{{REPEAT:a:1}}{{REPEAT:bc:2}}":    "abcbc",
		"{{REPEAT:a:b}}":                   "{{REPEAT:a:b}}",
		"{{REPEAT:a=; :2}}b=1 {{REPEAT:x}": "a=; a=; b=1 {{REPEAT:x}",
	} {
		got, err := expandRepeats(in)
		if err != nil || got != want {
			t.Errorf("expandRepeats(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestExpandRepeatsIsBounded(t *testing.T) {
	for _, in := range []string{"{{REPEAT:a:16777217}}", "{{REPEAT:ab:8388609}}", "{{REPEAT:a:99999999999999999999}}", "{{REPEAT::16777217}}"} {
		if got, err := expandRepeats(in); err == nil {
			t.Errorf("expandRepeats(%q) gave %d bytes, want an error", in, len(got))
		}
	}
}
