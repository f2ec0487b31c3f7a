package header_test

import (
	"mime"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/header"
)

func TestMediaType(t *testing.T) {
	for value, want := range map[string]string{
		"application/json":                     "application/json",
		"Application/JSON":                     "application/json",
		"application/json; charset=utf-8":      "application/json",
		` text/plain;charset="utf-8" `:         "text/plain",
		"application/vnd.a+json;v=1;q=\"a;b\"": "application/vnd.a+json",
		"":                                     "",
		"image":                                "",
		"/json":                                "",
		"image/":                               "",
		"image/*/x":                            "",
		"application/json, text/xml":           "",
		"application/json; x":                  "",
		"application/json;a=1;a=2":             "",
		"application/json\x00":                 "",
		"text/pl\u212ain":                      "",
	} {
		got, ok := header.MediaType(value)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t, want %q", value, got, ok, want)
		}
	}
}

func TestInMediaRanges(t *testing.T) {
	ranges := []string{"application/json", "image/*"}
	for name, want := range map[string]bool{
		"application/json": true, "image/png": true,
		"application/json5": false, "application/jso": false, "imagex/png": false, "xapplication/json": false, "": false,
	} {
		if got := header.InMediaRanges(ranges, name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestACommonMediaTypeCostsNoAllocation(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { header.MediaType("application/json") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzMediaType holds what is accepted without a parser to be what the parser of
// the standard library says.
func FuzzMediaType(f *testing.F) {
	for _, value := range []string{"application/json", "text/html; charset=utf-8", "a/b;c", "image"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := header.MediaType(value)
		if !ok {
			return
		}
		want, _, err := mime.ParseMediaType(value)
		if err != nil || got != want || strings.Count(got, "/") != 1 {
			t.Fatalf("%q: %q, the standard library has %q, %v", value, got, want, err)
		}
	})
}
