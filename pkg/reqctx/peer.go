package reqctx

import (
	"net/netip"
	"strings"
)

// PeerAddress is the address part of http.Request.RemoteAddr, and its text where that is
// the canonical one, else empty; the zero Addr when there is none, as behind a Unix socket.
// The zone of a link-local peer is dropped: networks are configured without. It is the same
// for all requests of a connection: a server that gives them to [Info.SetClient] of
// a blank [Carrier] spares each request the search.
func PeerAddress(remote string) (addr netip.Addr, text string) {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}, ""
	}
	if peer.Addr().Is4() { // which has no other form
		text = remote[:strings.LastIndexByte(remote, ':')]
	}
	return peer.Addr().Unmap().WithZone(""), text
}
