package text_test

import (
	"net/textproto"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1/text"
)

// FuzzTextIsCheckedByteByByte holds what looks at eight bytes at a time, or at the bits of
// a table, against the plain way to do it.
func FuzzTextIsCheckedByteByByte(f *testing.F) {
	for _, s := range []string{
		"", "\t", "\x00", "text/html; charset=utf-8", "0123456\x7f", "01234567\n", "\x80\xff\x7e\x20\x1f", "a\xa0\x9f\x80bcdefgh\x7f",
		"content-type", "Content-Type", "X-a", "x--A", "!#$%&'*+-.^_`|~", "a b", "a:b", "é", "ETag", "-a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		plain := !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
		if got := text.IsPlain(s); got != plain {
			t.Errorf("%q is plain: %t, want %t", s, got, plain)
		}
		token := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
			return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
		})
		name := text.Canonical(s)
		if (name != "") != token {
			t.Errorf("%q is a token: %t, want %t", s, name != "", token)
		}
		if want := textproto.CanonicalMIMEHeaderKey(s); name != "" && name != want {
			t.Errorf("%q becomes %q, want %q", s, name, want)
		}
	})
}
