package app_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// databaseWire stands between a program and its PostgreSQL. It counts the
// statements that pass, by their text, and can be cut.
type databaseWire struct {
	network, address string // of the server
	listener         net.Listener
	serving          sync.WaitGroup

	mu     sync.Mutex
	cut    bool
	counts map[string]int
	conns  map[net.Conn]bool
}

// wireTo makes a wire to the database at the URL. It returns the URL of its near
// end, and lives until the test ends.
func wireTo(t *testing.T, databaseURL string) (*databaseWire, string) {
	t.Helper()
	far, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &databaseWire{listener: l, counts: map[string]int{}, conns: map[net.Conn]bool{}}
	w.network, w.address = "tcp", net.JoinHostPort(far.Host, strconv.Itoa(int(far.Port)))
	if filepath.IsAbs(far.Host) {
		w.network, w.address = "unix", filepath.Join(far.Host, ".s.PGSQL."+strconv.Itoa(int(far.Port)))
	}
	w.serving.Go(w.accept)
	t.Cleanup(func() {
		_ = l.Close()
		w.Cut()
		w.serving.Wait()
	})
	near := url.URL{Scheme: "postgres", User: url.UserPassword(far.User, far.Password), Host: l.Addr().String(), Path: "/" + far.Database, RawQuery: "sslmode=disable"}
	return w, near.String()
}

func (w *databaseWire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial(w.network, w.address)
		if err != nil || !w.hold(near, far) {
			_ = near.Close()
			if far != nil {
				_ = far.Close()
			}
			continue
		}
		w.serving.Go(func() { w.count(near, far) })
		w.serving.Go(func() {
			_, _ = io.Copy(near, far)
			w.release(near, far)
		})
	}
}

func (w *databaseWire) hold(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		w.conns[c] = true
	}
	return !w.cut
}

func (w *databaseWire) release(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(w.conns, c)
	}
}

// Cut ends all connections and refuses new ones.
func (w *databaseWire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for c := range w.conns {
		_ = c.Close()
	}
}

// Mend lets connections through again.
func (w *databaseWire) Mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

// Statements is how many statements with the text in them have passed.
func (w *databaseWire) Statements(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for sql, count := range w.counts {
		if strings.Contains(sql, text) {
			n += count
		}
	}
	return n
}

// count passes on what the program says, and notes each execution of a
// statement: a Query, or a Bind of what an earlier Parse has named (PostgreSQL
// documentation, section "Message Formats").
func (w *databaseWire) count(near, far net.Conn) {
	defer w.release(near, far)
	in := bufio.NewReader(io.TeeReader(near, far))
	if _, err := readMessage(in); err != nil { // the start-up message has no type
		return
	}
	prepared := map[string]string{}
	for {
		kind, err := in.ReadByte()
		if err != nil {
			return
		}
		body, err := readMessage(in)
		if err != nil {
			return
		}
		texts := bytes.Split(body, []byte{0})
		switch {
		case kind == 'P' && len(texts) > 1:
			prepared[string(texts[0])] = string(texts[1])
		case kind == 'B' && len(texts) > 1:
			w.note(prepared[string(texts[1])])
		case kind == 'Q':
			w.note(string(texts[0]))
		}
	}
}

func (w *databaseWire) note(sql string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[sql]++
}

// readMessage reads the length and the body of a message.
func readMessage(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:])-4)
	_, err := io.ReadFull(r, body)
	return body, err
}
