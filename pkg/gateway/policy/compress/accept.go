package compress

import "strings"

// Accepts reports whether the values of Accept-Encoding ask for gzip, at least as
// much as for nothing at all (RFC 9110 section 12.5.3). Without the field a client
// may get anything, but hardly expects it; what is malformed asks for nothing.
func Accepts(values []string) bool {
	const unsaid = -1
	gzip, other, identity := unsaid, unsaid, unsaid
	for _, line := range values {
		for element := range strings.SplitSeq(line, ",") {
			name, parameters, weighted := strings.Cut(element, ";")
			name = strings.Trim(name, " \t")
			if name == "" && !weighted {
				continue // lists may have empty elements (RFC 9110 section 5.6.1)
			}
			q, ok := weight(parameters, weighted)
			switch {
			case !ok:
				return false
			case strings.EqualFold(name, "gzip"), strings.EqualFold(name, "x-gzip"):
				gzip = max(gzip, q)
			case strings.EqualFold(name, "identity"):
				identity = q
			case name == "*":
				other = q
			}
		}
	}
	if gzip == unsaid {
		gzip = other
	}
	if identity == unsaid {
		identity = other
	}
	return gzip > 0 && gzip >= identity
}

// weight reads the weight of an element in thousandths: one is 1000, and so is
// none at all (RFC 9110 section 12.4.2).
func weight(parameters string, there bool) (thousandths int, ok bool) {
	if !there {
		return 1000, true
	}
	name, value, _ := strings.Cut(strings.Trim(parameters, " \t"), "=")
	if name != "q" && name != "Q" || value == "" || len(value) > len("0.000") {
		return 0, false
	}
	if value[0] != '0' && value[0] != '1' || len(value) > 1 && value[1] != '.' {
		return 0, false
	}
	thousandths = int(value[0]-'0') * 1000
	for i, unit := 2, 100; i < len(value); i, unit = i+1, unit/10 {
		if value[i] < '0' || value[i] > '9' {
			return 0, false
		}
		thousandths += int(value[i]-'0') * unit
	}
	return thousandths, thousandths <= 1000
}
