package canonical

import (
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of a host name (RFC 1035 section 2.3.4), in bytes.
const (
	maxHost  = 253
	maxLabel = 63
)

// Host returns the canonical host of an authority, "Example.com.:8443", and its
// port, or "" when it has none: the name in lower case without a trailing dot,
// an IPv6 address in brackets and its shortest form. Everything that is not a
// name of letters, digits, dots, hyphens and underscores, or an address, is
// refused with [ErrHost]; names beyond ASCII have to come in their xn-- form.
func Host(authority string) (host, port string, err error) {
	host, port, err = splitPort(authority)
	if err != nil {
		return "", "", err
	}
	if strings.HasPrefix(host, "[") {
		addr, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", "", hostRefused("it is not an IPv6 address")
		}
		return "[" + addr.String() + "]", port, nil
	}
	host = strings.TrimSuffix(host, ".")
	if err := checkName(host); err != nil {
		return "", "", err
	}
	return strings.ToLower(host), port, nil
}

func hostRefused(reason Reason) error {
	return ErrHost.WithDetail("The host of the request is not acceptable: %s.", reason).With(reason)
}

// splitPort cuts the port off and checks it. An empty port, which RFC 3986
// allows, is none.
func splitPort(authority string) (host, port string, err error) {
	host = authority
	if end := strings.IndexByte(authority, ']'); strings.HasPrefix(authority, "[") && end > 0 {
		host, port = authority[:end+1], authority[end+1:]
		if port != "" && port[0] != ':' {
			return "", "", hostRefused("its address is followed by something else than a port")
		}
		port = strings.TrimPrefix(port, ":")
	} else if colon := strings.IndexByte(authority, ':'); colon >= 0 {
		host, port = authority[:colon], authority[colon+1:]
	}
	if port == "" {
		return host, "", nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port[0] == '0' {
		return "", "", hostRefused("its port is not a number from 1 to 65535")
	}
	return host, port, nil
}

// checkName refuses what is not a host name.
func checkName(name string) error {
	if name == "" {
		return hostRefused("it is empty")
	}
	if len(name) > maxHost {
		return hostRefused("it is too long")
	}
	label := 0
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 {
				return hostRefused("it has an empty label")
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return hostRefused("it holds a character that no host name has")
		}
		if label++; label > maxLabel {
			return hostRefused("it has a label of more than 63 characters")
		}
	}
	if label == 0 {
		return hostRefused("it has an empty label")
	}
	return nil
}
