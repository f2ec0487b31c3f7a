package check

import (
	"errors"
	"strings"

	"github.com/keywarden/keywarden/pkg/canonical"
)

// Path checks an escaped path, as a prefix without its last slash, and reports
// whether it is good.
func (v *Checker) Path(at, value string, prefix bool) bool {
	_, escaped, err := CanonicalPath(value)
	switch {
	case err != nil:
		v.Fail(at, "%s", err.Error())
	case prefix && NormalPrefix(value) != value, escaped != value:
		v.Fail(at, "is not in its normal form, %s", NormalPrefix(value))
	default:
		return true
	}
	return false
}

// CanonicalPath is [canonical.Path] with an error that speaks of the document.
func CanonicalPath(value string) (decoded, escaped string, err error) {
	decoded, escaped, err = canonical.Path(value)
	var reason canonical.Reason
	if errors.As(err, &reason) {
		return "", "", ErrText("is not an acceptable path: " + string(reason))
	}
	return decoded, escaped, err
}

// NormalPrefix is the canonical escaped form of prefix without a slash at its
// end; what is no path is returned as it is.
func NormalPrefix(prefix string) string {
	_, escaped, err := canonical.Path(prefix)
	if err != nil || escaped == "/" {
		return prefix
	}
	return strings.TrimSuffix(escaped, "/")
}
