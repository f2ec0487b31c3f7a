package httpedge

import (
	"net/netip"
	"strings"
)

// proxies are the networks whose word about a request's origin is believed.
type proxies []netip.Prefix

// newProxies brings IPv4 networks that were written as IPv6 to the form in
// which addresses are compared.
func newProxies(prefixes []netip.Prefix) proxies {
	const v4InV6 = 96
	out := make(proxies, 0, len(prefixes))
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= v4InV6 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-v4InV6)
		}
		out = append(out, p)
	}
	return out
}

func (p proxies) contain(addr netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// client is the address from which a trusted peer got the request: the
// rightmost entry of X-Forwarded-For that is no proxy of ours, since everything
// left of it was written by a stranger. The header's lines count as one list.
// An entry that is no address ends the search: what a proxy passed on without
// understanding it hides whatever stands behind, so the last good one is it.
func (p proxies) client(peer netip.Addr, lines []string) netip.Addr {
	last := peer
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			var entry string
			rest, entry, more = cutLast(rest)
			addr, ok := parseEntry(entry)
			if !ok {
				return last
			}
			last = addr
			if !p.contain(addr) {
				return addr
			}
		}
	}
	return last
}

// cutLast takes the last entry off a comma-separated list.
func cutLast(list string) (rest, entry string, more bool) {
	at := strings.LastIndexByte(list, ',')
	if at < 0 {
		return "", list, false
	}
	return list[:at], list[at+1:], true
}

// parseEntry reads one entry: an address, as some proxies write it with a port
// or in brackets. A zone means something on one machine only, so an address
// with one is refused.
func parseEntry(entry string) (netip.Addr, bool) {
	entry = strings.Trim(entry, " \t")
	addr, err := netip.ParseAddr(entry)
	if err != nil {
		withPort, portErr := netip.ParseAddrPort(entry)
		addr, err = withPort.Addr(), portErr
	}
	if err != nil && strings.HasPrefix(entry, "[") && strings.HasSuffix(entry, "]") {
		addr, err = netip.ParseAddr(entry[1 : len(entry)-1])
	}
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}
