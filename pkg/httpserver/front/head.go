package front

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/header"
)

var _ header.Sink = (*response)(nil)

// AddFields implements [header.Sink].
func (w *response) AddFields(l header.List) bool {
	if w.status != 0 || w.listed != nil {
		return false
	}
	w.listed = l
	return true
}

// framing is what the header of a handler says about the way in which the answer is
// sent.
type framing struct {
	length     string // of the body, as it was said first
	lengthSaid bool
	codings    []string // of the transfer
	connection []string
	typed      bool // the body is of a known type,
	encoded    bool // or coded, so that it has none that could be found out
	dated      bool
	trailers   bool // there may be some
}

// note takes a field in, and reports whether it may be said as it is. What is left is said
// as it turns out.
func (f *framing) note(name, value string, status int) bool {
	switch name {
	case "Content-Length":
		if !f.lengthSaid {
			f.length, f.lengthSaid = value, true
		}
		return false // what was understood of it is said instead
	case "Content-Type":
		f.typed = true
		return status != http.StatusNotModified
	case "Content-Encoding":
		f.encoded = f.encoded || value != ""
	case "Date":
		f.dated = true
	}
	return true
}

// noteAll is note for a field of a map.
func (f *framing) noteAll(name string, values []string, status int) bool {
	switch name {
	case "Transfer-Encoding":
		f.codings = values
		return false
	case "Connection":
		f.connection = values
		return false
	case "Trailer":
		f.trailers = f.trailers || len(values) > 0
		return true
	}
	if !validName(name) {
		f.trailers = f.trailers || strings.HasPrefix(name, http.TrailerPrefix)
		return false
	}
	first := ""
	if len(values) > 0 {
		first = values[0]
	}
	return f.note(name, first, status)
}

// begin puts status and fields of the handler into the buffer, so that what it does to
// them afterwards has no effect. The head stays open for what depends on the body.
func (w *response) begin() {
	out := appendStatus(w.buffers.out, w.status)
	var f framing
	for name, values := range w.header {
		if f.noteAll(name, values, w.status) {
			out = appendField(out, name, values)
		}
	}
	for i := range w.listed {
		one := &w.listed[i]
		if f.note(one.Name, one.Value, w.status) {
			out = append(append(out, one.Name...), ": "...)
			out = append(appendValue(out, one.Value), "\r\n"...)
		}
	}
	w.decide(&f)
	coding := firstOf(f.codings)
	if w.mode == undecided && coding != "chunked" {
		out = appendField(out, "Transfer-Encoding", f.codings)
	}
	if !w.sayClose {
		out = appendField(out, "Connection", f.connection)
	}
	if w.mode == sized || w.head && w.length >= 0 && bodyAllowed(w.status) && (coding == "" || coding == "identity") {
		out = appendLength(out, w.length)
	}
	w.buffers.out = out
}

// decide finds out how the body is sent.
func (w *response) decide(f *framing) {
	coding := firstOf(f.codings)
	w.declareLength(f.length, coding)
	if f.trailers {
		w.declareTrailers()
	}
	allowed := bodyAllowed(w.status)
	switch {
	case w.head || !allowed:
		w.mode = nothing
	case w.length >= 0 && (coding == "" || coding == "identity"):
		w.mode = sized
	case coding == "identity":
		w.mode = untilClose
		w.lastOne = true
	}
	w.fits = !f.lengthSaid && coding == "" && allowed && !f.trailers
	w.sniff = !f.typed && coding == "" && !f.encoded && allowed
	w.undated = !f.dated
	closes := saysClose(f.connection)
	w.lastOne = w.lastOne || closes || w.wanted || w.status == http.StatusSwitchingProtocols
	w.sayClose = w.lastOne && !closes && w.status != http.StatusSwitchingProtocols
}

// declareLength takes the length that the handler says.
func (w *response) declareLength(text, coding string) {
	if text == "" {
		return
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		w.conn.server.log.Printf("http: invalid Content-Length of %q", text)
		return
	}
	w.length = n
	if coding != "" && coding != "identity" {
		w.conn.server.log.Printf("http: WriteHeader called with both Transfer-Encoding of %q and a Content-Length of %d", coding, n)
	}
}

func (w *response) declareTrailers() {
	for _, v := range w.header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(trim(name)); name != "" && trailerAllowed(name) {
				w.trailers = append(w.trailers, name)
			}
		}
	}
}

// completeHead ends the head, when the first piece of the body is known. last says that
// there is no other.
func (w *response) completeHead(piece []byte, last bool) {
	if w.complete {
		return
	}
	w.complete = true
	out := w.buffers.out
	if w.undated {
		out = w.conn.server.appendDate(out)
	}
	switch says := last && w.fits; {
	case says && w.mode == undecided:
		w.mode, w.length = sized, int64(len(piece))
		out = appendLength(out, w.length)
	case says && w.head && len(piece) > 0:
		out = appendLength(out, int64(len(piece)))
	case w.mode == undecided:
		w.mode = chunked
	}
	if w.sniff && len(piece) > 0 {
		out = append(append(append(out, "Content-Type: "...), http.DetectContentType(piece)...), "\r\n"...)
	}
	if w.sayClose {
		out = append(out, "Connection: close\r\n"...)
	}
	if w.mode == chunked {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	w.buffers.out = append(out, "\r\n"...)
}
