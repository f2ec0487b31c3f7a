package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/bytesize"
	"github.com/keywarden/keywarden/pkg/seal"
)

// redacted is what a printed configuration shows for a secret.
const redacted = "[redacted]"

// maxItems bounds a list.
const maxItems = 1000

// parse reads text into target, which is a value of o's type or, for a list, one
// item. The error says what is accepted and never repeats the text.
func (o *option) parse(text string, target reflect.Value) error {
	if err := parseValue(text, target.Addr().Interface()); err != nil {
		return err
	}
	if o.enum != nil && !slices.Contains(o.enum, text) {
		return errors.New("must be one of " + strings.Join(o.enum, ", "))
	}
	if text == "" && (target.Kind() == reflect.String || o.secret()) {
		if !o.optional {
			return errors.New("must not be empty")
		}
		return nil
	}
	if o.min != "" && !o.within(target) {
		return fmt.Errorf("must be %s to %s", o.min, o.max)
	}
	return checkFormat(o.format, text)
}

// parseValue reads text into the variable that target points to. A type that is
// not listed is a mistake in [Config] itself.
func parseValue(text string, target any) (err error) {
	switch p := target.(type) {
	case *string:
		*p, err = text, checkText(text)
	case *seal.Secret:
		*p, err = seal.NewSecret(text), checkSecret(text)
	case *bool:
		*p, err = strconv.ParseBool(text)
		err = instead(err, "must be true or false")
	case *int:
		*p, err = strconv.Atoi(text)
		err = instead(err, "must be a whole number")
	case *float64:
		*p, err = parseNumber(text)
	case *time.Duration:
		*p, err = parseDuration(text)
	case *Size:
		*p, err = bytesize.Parse(text)
	case *netip.Prefix:
		*p, err = parseNetwork(text)
	default:
		panic(fmt.Sprintf("config: no parser for %T", target))
	}
	return err
}

// instead replaces the error of a parser, which repeats its input, by a message.
func instead(err error, message string) error {
	if err == nil {
		return nil
	}
	return errors.New(message)
}

// within reports whether the number in value is inside of o's bounds.
func (o *option) within(value reflect.Value) bool {
	low, high := o.bound(o.min), o.bound(o.max)
	if value.CanFloat() {
		return value.Float() >= low.Float() && value.Float() <= high.Float()
	}
	return value.Int() >= low.Int() && value.Int() <= high.Int()
}

// bound reads the tag min or max.
func (o *option) bound(text string) reflect.Value {
	v := reflect.New(o.elem)
	if err := parseValue(text, v.Interface()); err != nil {
		panic(fmt.Sprintf("config: bound %q of %s: %v", text, o.path, err))
	}
	return v.Elem()
}

// checkText keeps texts printable: a control character in an address or a path
// is a mistake in quoting, and would break the lines of a log.
func checkText(text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("must be text without control characters")
	}
	return nil
}

func checkSecret(text string) error {
	if text == redacted {
		return errors.New("is the placeholder of a printed configuration, not a secret")
	}
	return checkText(text)
}

func parseNumber(text string) (float64, error) {
	n, err := strconv.ParseFloat(text, 64)
	// Digits and a point only: no "inf", no hexadecimal, no underscores.
	if err != nil || math.IsInf(n, 0) || strings.Trim(text, "0123456789.") != "" {
		return 0, errors.New("must be a number, such as 0.01")
	}
	return n, nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || strings.ContainsAny(text, "+-") {
		return 0, errors.New("must be a duration with its unit, such as 500ms, 30s, 15m or 168h")
	}
	return d, nil
}

// formatDuration is the shortest exact form that parseDuration reads: 15m, not
// 15m0s.
func formatDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []struct{ suffix, rest string }{{"m0s", "m"}, {"h0m", "h"}} {
		if head, ok := strings.CutSuffix(text, zero.suffix); ok {
			text = head + zero.rest
		}
	}
	return text
}

// parseNetwork reads a network in CIDR notation, or an address as the network of
// that one address.
func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("must be a network such as 10.0.0.0/8 or 2001:db8::/32, or one address")
	case network.Addr().Is4In6():
		return netip.Prefix{}, errors.New("must be written as an IPv4 network")
	case network != network.Masked():
		return netip.Prefix{}, fmt.Errorf("has bits beyond its length; the network is %s", network.Masked())
	}
	return network, nil
}

var (
	hostPattern = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*$`)
	// scopePattern is the syntax of access.ValidScope; a test holds them equal,
	// because this package may not import that one.
	scopePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*(:[a-z0-9][a-z0-9._-]*)*$`)
	prefixPattern = regexp.MustCompile(`^[a-z][a-z0-9]{1,7}$`)
	wordPattern   = regexp.MustCompile(`^[!-~]+$`)
)

// Bounds of names, in bytes. They are not in the expressions: repetitions with a large
// bound take milliseconds to compile, at each start of the program.
const (
	maxHostLength  = 253
	maxLabelLength = 63
	maxScopeLength = 64
	maxWordLength  = 256
)

// checkFormat checks a non-empty text against the syntax that the tag format
// names. The error never repeats the text.
func checkFormat(format, text string) error {
	switch format {
	case "":
		return nil
	case "address":
		return want(validAddress(text), "must be host:port, such as :8080 or 127.0.0.1:8080")
	case "host":
		return want(validHost(text), "must be a host name in lower case, without port")
	case "scope":
		return want(len(text) <= maxScopeLength && scopePattern.MatchString(text),
			"must be a scope: lower-case words joined by colons, such as orders:read")
	case "key-prefix":
		return want(prefixPattern.MatchString(text), "must be 2 to 8 lower-case letters and digits, a letter first")
	case "word":
		return want(len(text) <= maxWordLength && wordPattern.MatchString(text), "must be at most 256 printable ASCII characters without spaces")
	case "postgres":
		return checkURL(text, "postgres", "postgresql")
	case "redis":
		return checkURL(text, "redis", "rediss", "unix")
	case "master-key":
		_, err := seal.ParseKeyring(seal.NewSecret(text))
		return err
	default:
		panic("config: no format " + format)
	}
}

func want(ok bool, message string) error {
	if ok {
		return nil
	}
	return errors.New(message)
}

func validAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	return err == nil && validPort(port) && (host == "" || validHost(strings.ToLower(host)))
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if len(host) > maxHostLength || !hostPattern.MatchString(host) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if len(label) > maxLabelLength {
			return false
		}
	}
	return true
}

// checkURL parses a URL that holds a password. The error of url.Parse repeats
// the URL and is therefore dropped.
func checkURL(text string, schemes ...string) error {
	u, err := url.Parse(text)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Opaque != "" {
		return fmt.Errorf("must be a URL that begins with %s://, special characters of the password escaped (/ is %%2F, @ is %%40)",
			strings.Join(schemes, ":// or "))
	}
	return nil
}
