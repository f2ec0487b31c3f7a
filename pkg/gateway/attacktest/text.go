package attacktest

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxExpansion bounds what one REPEAT may produce, in bytes: a slip in the case
// file must not take the machine's memory.
const maxExpansion = 16 << 20

var (
	variableRef = regexp.MustCompile(`\{\{[A-Za-z0-9_]+\}\}`)
	repeatRef   = regexp.MustCompile(`(?s)\{\{REPEAT:(.*?):(\d+)\}\}`)
)

// unescape turns a payload as the case file writes it into bytes: \r, \n, \t,
// \0, \\, \" and \xHH. Other characters up to U+00FF stand for the byte of the
// same number. Any other escape is an error, because a payload that is silently
// something else proves nothing.
func unescape(s string) (string, error) {
	var b strings.Builder
	runes := []rune(s)
	for i := 0; i < len(runes); i++ {
		c := runes[i]
		if c > 0xff {
			return "", fmt.Errorf("character %q is not one byte", c)
		}
		if c != '\\' {
			b.WriteByte(byte(c))
			continue
		}
		if i++; i == len(runes) {
			return "", fmt.Errorf("escape at the end of the payload")
		}
		if runes[i] == 'x' {
			if i+2 >= len(runes) {
				return "", fmt.Errorf("short \\x escape")
			}
			n, err := strconv.ParseUint(string(runes[i+1:i+3]), 16, 8)
			if err != nil {
				return "", fmt.Errorf("bad \\x escape: %w", err)
			}
			b.WriteByte(byte(n))
			i += 2
			continue
		}
		plain, ok := simpleEscape(runes[i])
		if !ok {
			return "", fmt.Errorf("unknown escape \\%c", runes[i])
		}
		b.WriteByte(plain)
	}
	return b.String(), nil
}

// simpleEscape is the byte behind a one-letter escape.
func simpleEscape(c rune) (byte, bool) {
	const names, bytes = `rnt0\"`, "\r\n\t\x00\\\""
	i := strings.IndexRune(names, c)
	if i < 0 {
		return 0, false
	}
	return bytes[i], true
}

// variables are the values a case may name as {{NAME}}.
type variables map[string]string

// substitute replaces every {{NAME}} in text by quote(value). A name without a
// value is an error: sent literally, it would be refused for the wrong reason.
func (v variables) substitute(text string, quote func(string) string) (string, error) {
	var missing []string
	out := variableRef.ReplaceAllStringFunc(text, func(ref string) string {
		name := strings.Trim(ref, "{}")
		value, ok := v[name]
		if !ok {
			missing = append(missing, name)
			return ref
		}
		return quote(value)
	})
	if missing != nil {
		slices.Sort(missing)
		return "", fmt.Errorf("no value for variable %s", strings.Join(slices.Compact(missing), ", "))
	}
	return out, nil
}

// verbatim is the quoting of payloads and paths: none.
func verbatim(s string) string { return s }

// expandRepeats replaces every {{REPEAT:text:n}} by n times text. Text may hold
// anything, colons and braces too; it ends at the first ":<digits>}}".
func expandRepeats(s string) (string, error) {
	var failed error
	out := repeatRef.ReplaceAllStringFunc(s, func(ref string) string {
		body := strings.TrimSuffix(strings.TrimPrefix(ref, "{{REPEAT:"), "}}")
		colon := strings.LastIndexByte(body, ':')
		n, err := strconv.Atoi(body[colon+1:])
		if err != nil || n*colon > maxExpansion || n > maxExpansion {
			failed = fmt.Errorf("REPEAT of %d bytes, %s times, is more than %d bytes", colon, body[colon+1:], maxExpansion)
			return ""
		}
		return strings.Repeat(body[:colon], n)
	})
	return out, failed
}

// latin1 reads bytes as ISO 8859-1, so that whatever arrived can be matched,
// printed and put into JSON without loss.
func latin1(b []byte) string {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}
