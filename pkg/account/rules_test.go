package account

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

func TestEmailsHaveOneSpelling(t *testing.T) {
	for spelling, want := range map[string]string{
		"ada@example.com":                     "ada@example.com",
		" Ada@Example.COM\t":                  "ada@example.com",
		"ａｄａ@example.com":                     "ada@example.com", // full width
		"ada＠example．com":                     "ada@example.com",
		"ADA@EXAMPLE。COM":                     "ada@example.com", // ideographic full stop
		"\u212Aay@example.com":                "kay@example.com", // Kelvin sign
		"o\uFB00ice@example.com":              "office@example.com",
		"jose\u0301@example.com":              "jos\u00E9@example.com",
		"JOS\u00C9@example.com":               "jos\u00E9@example.com",
		"J\u030C@example.com":                 "\u01F0@example.com", // composes in lower case only
		"\u01F0@example.com":                  "\u01F0@example.com",
		"ada@b\u00FCcher.example":             "ada@xn--bcher-kva.example",
		"ada@BU\u0308CHER.example":            "ada@xn--bcher-kva.example",
		"ada@xn--bcher-kva.example":           "ada@xn--bcher-kva.example",
		"ada@\u4F8B\u3048.\u30C6\u30B9\u30C8": "ada@xn--r8jz45g.xn--zckzah",
		"adm\u0131n@example.com":              "adm\u0131n@example.com", // the dotless i is a letter of its own
		"ada@exa\u200Bmple.com":               "ada@example.com",        // UTS 46 ignores it in a domain
		"not an address":                      "not an address",
		"":                                    "",
	} {
		if got := CanonicalEmail(spelling); got != want {
			t.Errorf("%+q is %+q, want %+q", spelling, got, want)
		}
	}
}

func TestEmailsAreChecked(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for email, ok := range map[string]bool{
		"ada@example.com":                        true,
		"a.b+c-d_e@sub.example.co":               true,
		"jos\u00E9@example.com":                  true,
		"adm\u0131n@example.com":                 true,
		"\u5B57@\u4F8B\u3048.jp":                 true,
		"o'hara@example.com":                     true,
		"1@2.3":                                  true,
		long(64) + "@example.com":                true,
		"a@" + long(63) + ".com":                 true,
		"a@b.c":                                  true,
		"":                                       false,
		"@":                                      false,
		"ada":                                    false,
		"ada@":                                   false,
		"@example.com":                           false,
		"ada@example":                            false,
		"ada@localhost":                          false,
		"ada@@example.com":                       false,
		"ada@b@example.com":                      false,
		"ada\uFF20evil.com@example.com":          false, // becomes a second @
		`"ada@b"@example.com`:                    false,
		"ada@example.com\r\nBcc: eve@evil.com":   false,
		"ada\r\n@example.com":                    false,
		"ada@exam\nple.com":                      false,
		"ada\x00@example.com":                    false,
		"ada@example.com\x00":                    false,
		"a\tda@example.com":                      false,
		"a da@example.com":                       false,
		"a\u00A0da@example.com":                  false, // no-break space
		"a\u200Bda@example.com":                  false, // zero width space
		"a\u200Dda@example.com":                  false, // zero width joiner
		"\uFEFFada@example.com":                  false,
		"a\u00ADda@example.com":                  false, // soft hyphen
		"a\u202Eda@example.com":                  false, // right-to-left override
		"a\u115Fda@example.com":                  false, // filler
		"a\u034Fda@example.com":                  false, // grapheme joiner
		"a\u3164da@example.com":                  false,
		"a\u2800da@example.com":                  false,
		"a\xffda@example.com":                    false, // not UTF-8
		"ada@exa_mple.com":                       false,
		"ada@-example.com":                       false,
		"ada@example-.com":                       false,
		"ada@example..com":                       false,
		"ada@.example.com":                       false,
		"ada@example.com.":                       false,
		".ada@example.com":                       false,
		"ada.@example.com":                       false,
		"a..da@example.com":                      false,
		"ada@[127.0.0.1]":                        false,
		"ada@[IPv6:::1]":                         false,
		"ada@xn--a.example":                      false, // not punycode
		"Ada <ada@example.com>":                  false,
		"ada@example.com, eve@example.com":       false,
		"ada@example.com(comment)":               false,
		"mailto:ada@example.com":                 false,
		"=?utf-8?q?ada?=@example.com;x":          false,
		long(65) + "@example.com":                false,
		"a@" + long(64) + ".com":                 false, // a label of DNS has at most 63
		"a@" + strings.Repeat("a.", 148) + "com": false, // 300 characters
		"a@" + long(300) + ".com":                false,
		long(5000) + "@example.com":              false,
		"a@" + strings.Repeat("\u4F8B", 400):     false,
	} {
		if detail := checkEmail(CanonicalEmail(email)); (detail == "") != ok {
			t.Errorf("%+.80q: %q", email, detail)
		}
	}
}

// texts draws texts near addresses: odd characters around an @.
func texts() *rapid.Generator[string] {
	odd := rapid.SampledFrom([]string{
		"\uFF20", "\u0130", "\u0131", "\u212A", "\uFB00", "H\u0331", "J\u030C", "W\u030A", "\u03D3", "\u1E9E", "\u200B", "\u3002",
		"\uFF0E", "xn--", "\u00DF", "\uFDFA", " ", "\t", "\n", "\xff", "\x00", "A", "a", ".", "-", "@", "\u0345", "\u03A3", "\u1FBE",
	})
	part := rapid.OneOf(odd, rapid.StringN(0, 5, -1))
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(part, 0, 6).Draw(t, "local"), "") +
			rapid.SampledFrom([]string{"@", "", "@@"}).Draw(t, "at") +
			strings.Join(rapid.SliceOfN(part, 0, 6).Draw(t, "domain"), "") +
			rapid.SampledFrom([]string{".com", ""}).Draw(t, "end")
	})
}

// checkSpelling holds what is true of every text that is taken for an address.
func checkSpelling(t rapid.TB, text string) {
	t.Helper()
	canonical := CanonicalEmail(text)
	if !utf8.ValidString(canonical) {
		t.Fatalf("%+q becomes %+q, which is not UTF-8", text, canonical)
	}
	if checkEmail(canonical) != "" {
		return
	}
	if again := CanonicalEmail(canonical); again != canonical {
		t.Fatalf("%+q has two spellings: %+q and %+q", text, canonical, again)
	}
	local, domain, _ := strings.Cut(canonical, "@")
	if canonical != strings.ToLower(canonical) || !norm.NFKC.IsNormalString(canonical) || len(canonical) > 254 {
		t.Fatalf("%+q is stored as %+q", text, canonical)
	}
	if local == "" || strings.ContainsFunc(domain, func(r rune) bool { return r > unicode.MaxASCII }) {
		t.Fatalf("%+q is stored as %+q", text, canonical)
	}
	if strings.ContainsFunc(canonical, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`"<>()[]\,;:`, r) }) {
		t.Fatalf("%+q is stored as %+q", text, canonical)
	}
	for _, other := range []string{
		" " + text + "\n", norm.NFD.String(text), norm.NFC.String(text), norm.NFKD.String(text), norm.NFKC.String(text),
	} {
		if got := CanonicalEmail(other); got != canonical && utf8.ValidString(text) {
			t.Fatalf("%+q is %+q, but %+q is %+q", text, canonical, other, got)
		}
	}
}

func TestEveryValidEmailHasOneSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkSpelling(t, texts().Draw(t, "text")) })
}

// Every letter that has another form, alone and under an accent, before and
// after the @.
func TestEveryLetterOfAnEmailHasOneSpelling(t *testing.T) {
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if norm.NFKD.PropertiesString(string(r)).Decomposition() == nil && unicode.ToLower(r) == r {
			continue
		}
		checkSpelling(t, "x"+string(r)+"@example.com")
		checkSpelling(t, "x@"+string(r)+".com")
		for _, accent := range []string{"\u030C", "\u0331", "\u030A", "\u0308"} {
			checkSpelling(t, string(r)+accent+"@example.com")
		}
	}
}

func TestNamesAreCleaned(t *testing.T) {
	for name, want := range map[string]string{
		"":                "",
		" Ada  Lovelace ": "Ada  Lovelace",
		"Jose\u0301":      "Jos\u00E9",
		"\u6C34\u6D77":    "\u6C34\u6D77",
		"O'Hara-\u00D1u\u00F1ez, Jr. \u2764\uFE0F": "O'Hara-\u00D1u\u00F1ez, Jr. \u2764\uFE0F",
		strings.Repeat("a", 100):                   strings.Repeat("a", 100),
		strings.Repeat("e\u0301", 100):             strings.Repeat("\u00E9", 100), // counted as it is stored
		strings.Repeat("\U0001F600", 100):          strings.Repeat("\U0001F600", 100),
	} {
		if got, detail := cleanName(name); got != want || detail != "" {
			t.Errorf("%+q is %+q, %q", name, got, detail)
		}
	}
	for _, name := range []string{
		strings.Repeat("a", 101), strings.Repeat("\u0958", 51), strings.Repeat("a", 100_000),
		"a\nb", "a\x00b", "a\x1b[31mb", "a\u200Bb", "a\u202Eb", "a\u2028b", "a\u00A0b", "a\u3164b", "a\u2800b", "\xff", "\uFFFD", "\u0085",
	} {
		if got, detail := cleanName(name); got != "" || detail == "" {
			t.Errorf("%+.80q is %+.80q, %q", name, got, detail)
		}
	}
}

func TestPasswordRules(t *testing.T) {
	s := NewService(Options{PasswordMinLength: 12})
	const email, name = "grace.hopper@example.com", "Grace Hopper"
	long := strings.Repeat("pear-", 60)
	for password, ok := range map[string]bool{
		"nocapsnodigits-longenough":    true, // no rules of composition
		"correct horse battery 42":     true,
		"correct horse battery staple": true,
		" leading and trailing ":       true,
		"\u6C34\u6D77\u5C71\u5DDD\u7A7A\u98A8\u6708\u661F\u82B1\u9CE5\u866B\u9B5A": true, // twelve characters
		"tr0ub4dor&3 and more":     true,
		"with\x00a\ttab\nand more": true,
		long[:256]:                 true,
		strings.Repeat("\uAC01\uB098\uB2E4\uB77C\uB9C8\uBC14\uC0AC\uC544", 32):                  true, // 256 characters, 768 bytes
		norm.NFD.String(strings.Repeat("\uAC01\uB098\uB2E4\uB77C\uB9C8\uBC14\uC0AC\uC544", 32)): true,

		"":            false,
		"short7!":     false,
		"elevenchars": false,
		"e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301": false, // six characters
		long[:257]:                     false,
		strings.Repeat("x1-y", 10_000): false,
		strings.Repeat("\uFDFA", 300):  false, // 18 characters each once normalised
		"not unicode: \xff\xfe":        false,
		"password1234567":              false,
		"Password!2024":                false,
		"P@$$w0rd!2024":                false,
		"passwordpassword":             false,
		"PASSWORDPASSWORD":             false,
		"\uFF50\uFF41\uFF53\uFF53\uFF57\uFF4F\uFF52\uFF44\uFF11\uFF12\uFF13\uFF14": false, // full width
		"qwertyuiop12":              false,
		"123qwertyuiop":             false,
		"aaaaaaaaaaaa":              false,
		"azazazazazaz":              false,
		"k9%Zk9%Zk9%Z":              false,
		"1234567890123456789012345": false,
		"abababababab":              false,
		"123456789012":              false,
		"abcdefghijkl":              false,
		"987654321098":              false,
		"aaaabbbbcccc":              false,
		"            ":              false,
		"iloveyou1234":              false,
		"grace.hopper":              false, // the local part
		"Grace.Hopper1!":            false,
		"grace.hopper@example.com":  false,
		"grace hopper":              false, // the name
		"12Grace Hopper34":          false,
		"keywarden1234":             false, // the product
		"keywardenkeywarden":        false,
	} {
		if detail := s.checkPassword(password, email, name); (detail == "") != ok {
			t.Errorf("%+.60q: %q", password, detail)
		}
	}
}

func TestPasswordsAreRefusedWithAReasonThatDoesNotRepeatThem(t *testing.T) {
	s := NewService(Options{PasswordMinLength: 12})
	for _, password := range []string{"short7!", "password1234567", strings.Repeat("x1-y", 1000), "not unicode: \xff"} {
		if detail := s.checkPassword(password, "a@b.c", ""); detail == "" || strings.Contains(detail, password) {
			t.Errorf("%.20q: %q", password, detail)
		}
	}
}

func TestCommonPasswordsAreSortedUniqueLowerCaseAndFound(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(commonPasswords, "\n"), "\n")
	if len(lines) < 10_000 {
		t.Fatalf("%d common passwords", len(lines))
	}
	if !slices.IsSorted(lines) {
		t.Error("not sorted: the search would miss some")
	}
	if n := len(slices.Compact(slices.Clone(lines))); n != len(lines) {
		t.Errorf("%d lines are repeated", len(lines)-n)
	}
	for _, line := range lines {
		if line != strings.ToLower(line) || line != strings.TrimSpace(line) || len(line) < 4 {
			t.Errorf("%q can never match", line)
		}
		if !common(line) {
			t.Errorf("%q is not found", line)
		}
		for _, near := range []string{line + "~", line + "\n", "\n" + line, line[:len(line)-1] + "\n"} {
			if common(near) {
				t.Errorf("%q is found", near)
			}
		}
	}
	for _, missing := range []string{"", "a", "\n", "\n\n\n\n", "!", "~~~~~", "zzzzzzzzzz~", "correct horse battery staple", "\xff\xff\xff\xff", commonPasswords} {
		if common(missing) {
			t.Errorf("%.20q is found", missing)
		}
	}
}

func FuzzEmail(f *testing.F) {
	for _, seed := range []string{"ada@example.com", "@", "a@b@c.d", "\uFF20", "a@\u4F8B\u3048.jp", "a@xn--a.b", "\xff@\xff.\xff", "x" + strings.Repeat("\u00E9", 600) + "@a.b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { checkSpelling(t, text) })
}

func FuzzName(f *testing.F) {
	for _, seed := range []string{"Ada", " a ", "\u0301", "\xff", strings.Repeat("\u0958", 60)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, detail := cleanName(text)
		if detail != "" {
			if name != "" {
				t.Errorf("refused but %q", name)
			}
			return
		}
		if !utf8.ValidString(name) || utf8.RuneCountInString(name) > MaxNameLength || strings.TrimSpace(name) != name {
			t.Errorf("%+q is stored as %+q", text, name)
		}
		if again, detail := cleanName(name); again != name || detail != "" {
			t.Errorf("%+q becomes %+q, %q", name, again, detail)
		}
	})
}

func FuzzPassword(f *testing.F) {
	for _, seed := range []string{"password", "\xff", "ab", "", "aaaaaaaaaaaa", "keywarden", "\u0130\u0130\u0130\u0130"} {
		f.Add(seed, "ada@example.com", "Ada")
	}
	f.Add("password1234", "@", "\xff")
	s := NewService(Options{PasswordMinLength: 8})
	f.Fuzz(func(t *testing.T, password, email, name string) {
		guessable(password, email, name)
		detail := s.checkPassword(password, email, name)
		if detail != s.checkPassword(norm.NFC.String(password), email, name) && len(password) <= MaxPasswordBytes &&
			len(norm.NFC.String(password)) <= MaxPasswordBytes && utf8.ValidString(password) {
			t.Errorf("%+q and its composed form are judged differently", password)
		}
		if detail == "" && (utf8.RuneCountInString(norm.NFKC.String(password)) < 8 || !utf8.ValidString(password)) {
			t.Errorf("%+q was accepted", password)
		}
	})
}
