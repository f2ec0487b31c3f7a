// Package quantity is the values of the gateway document that are written as text:
// spans, sizes, networks, ranges of statuses and days, each with its unit or form.
package quantity

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/bytesize"
)

// Duration is a time span, written with its unit: 500ms, 30s, 2m.
type Duration time.Duration

// UnmarshalText reads what [time.ParseDuration] reads.
func (d *Duration) UnmarshalText(text []byte) error {
	span, err := time.ParseDuration(string(text))
	if err != nil {
		return errText("must be a time with its unit, such as 500ms, 30s or 2m")
	}
	*d = Duration(span)
	return nil
}

// MarshalText is the form of [time.Duration.String], "1m30s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Size is a number of bytes, written with a binary unit: 64KiB, 10MiB.
type Size int64

// UnmarshalText reads what bytesize.Parse does, above 0.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := bytesize.Parse(string(text))
	if err != nil || n <= 0 {
		return errText("must be a size above 0 with its unit (B, KiB, MiB, GiB or TiB), such as 10MiB")
	}
	*s = Size(n)
	return nil
}

// MarshalText is the shortest exact form.
func (s Size) MarshalText() ([]byte, error) { return []byte(bytesize.Size(s).String()), nil }

// Network is a range of IP addresses, written 10.0.0.0/8 or 2001:db8::/32, or a
// single address.
type Network netip.Prefix

// UnmarshalText reads a network or an address.
func (n *Network) UnmarshalText(text []byte) error {
	const bad = errText("must be a network such as 10.0.0.0/8, or an address")
	prefix, err := netip.ParsePrefix(string(text))
	if err != nil {
		addr, err := netip.ParseAddr(string(text))
		if err != nil || addr.Zone() != "" {
			return bad
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	network := Network(prefix).Normal()
	if !network.Prefix().IsValid() {
		return bad
	}
	if prefix != prefix.Masked() {
		return errText("has bits beyond its length; the network is " + prefix.Masked().String())
	}
	*n = network
	return nil
}

// Normal is n without bits beyond its length, and as IPv4 when it is a range of
// IPv4 addresses mapped into IPv6; a mapped range that holds more is invalid.
func (n Network) Normal() Network {
	p := netip.Prefix(n)
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return Network(p.Masked())
}

// Prefix is n as the standard library's type.
func (n Network) Prefix() netip.Prefix { return netip.Prefix(n) }

// MarshalText is the form of [netip.Prefix.String].
func (n Network) MarshalText() ([]byte, error) { return n.Prefix().MarshalText() }

// StatusRange is a range of HTTP statuses, both ends included: 200-299, or one
// status.
type StatusRange struct{ From, To int }

// UnmarshalText reads "200" and "200-299".
func (r *StatusRange) UnmarshalText(text []byte) error {
	from, to, ranged := strings.Cut(string(text), "-")
	if !ranged {
		to = from
	}
	first, ok1 := status(from)
	last, ok2 := status(to)
	if !ok1 || !ok2 || first > last {
		return errText("must be a status such as 200, or a range such as 200-299")
	}
	*r = StatusRange{first, last}
	return nil
}

func status(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && len(text) == 3 && n >= 100
}

// MarshalText is the form that UnmarshalText reads.
func (r StatusRange) MarshalText() ([]byte, error) {
	if r.From == r.To {
		return []byte(strconv.Itoa(r.From)), nil
	}
	return fmt.Appendf(nil, "%d-%d", r.From, r.To), nil
}

// Date is the beginning of a day in UTC, written 2027-01-31.
type Date string

// UnmarshalText reads a day that exists.
func (d *Date) UnmarshalText(text []byte) error {
	if _, err := time.Parse(time.DateOnly, string(text)); err != nil {
		return errText("must be a day, such as 2027-01-31")
	}
	*d = Date(text)
	return nil
}

// Time is the first moment of the day; of what is no day, the zero time.
func (d Date) Time() time.Time {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		return time.Time{}
	}
	return t
}

// errText is an error whose text is a detail.
type errText string

func (e errText) Error() string { return string(e) }
