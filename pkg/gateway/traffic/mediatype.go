package traffic

import (
	"net/textproto"
	"strings"
)

// maxQuality is the weight of a media range that gives none, in thousandths.
const maxQuality = 1000

// cutElement cuts the first element that is not empty off a list (RFC 9110 section
// 5.6.1); a comma within quotes does not end one. Without an element it returns
// nothing.
func cutElement(list string) (element, rest string) {
	for list != "" {
		end := indexUnquoted(list, ',')
		element, list = textproto.TrimString(list[:end]), list[min(end+1, len(list)):]
		if element != "" {
			return element, list
		}
	}
	return "", ""
}

// mediaRange takes a media range, or a media type, apart: its name and its weight
// in thousandths (RFC 9110 section 12.4.2). A weight that is none counts as if it
// were not there.
func mediaRange(element string) (name string, quality int) {
	end := indexUnquoted(element, ';')
	name, quality = textproto.TrimString(element[:end]), maxQuality
	for rest := element[end:]; rest != ""; {
		rest = rest[1:] // the semicolon
		end := indexUnquoted(rest, ';')
		key, value, _ := strings.Cut(rest[:end], "=")
		if strings.EqualFold(textproto.TrimString(key), "q") {
			if q, ok := parseQuality(textproto.TrimString(value)); ok {
				quality = q
			}
		}
		rest = rest[end:]
	}
	return name, quality
}

// parseQuality reads a weight, which has at most three decimals.
func parseQuality(s string) (thousandths int, ok bool) {
	if s == "" || s[0] != '0' && s[0] != '1' || len(s) > 5 || len(s) > 1 && s[1] != '.' {
		return 0, false
	}
	thousandths = int(s[0]-'0') * maxQuality
	unit := maxQuality / 10
	for i := 2; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		thousandths += int(s[i]-'0') * unit
		unit /= 10
	}
	return thousandths, thousandths <= maxQuality
}

// indexUnquoted is the place of the first c that is not in a quoted string, or the
// length of s.
func indexUnquoted(s string, c byte) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted && s[i] == '\\':
			i++
		case !quoted && s[i] == c:
			return i
		}
	}
	return len(s)
}
