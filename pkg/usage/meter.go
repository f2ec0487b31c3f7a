package usage

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/bits"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shardBits = 6
	shards    = 1 << shardBits

	batchCells   = 2000             // of one flush
	flushTimeout = 10 * time.Second // of one flush
	finalTimeout = 10 * time.Second // of all flushes at the end together

	// foldShare is the part of the cells, as 1/n, that is kept for requests that are
	// counted by route alone.
	foldShare = 8

	// maxNetworks bounds the cells of a replica that have a network. Anybody can make
	// those, from as many addresses as they have.
	maxNetworks = 128

	// Bits of the network that an address is told by: what one site has, in general.
	network4, network6 = 24, 56
)

// Defaults of [Options].
const (
	DefaultInterval = time.Second
	DefaultMaxCells = 100_000
)

// Options are what a [Meter] is made of. Interval and MaxCells have defaults.
type Options struct {
	Store    Store
	Replica  string           // a UUID, new for each process: cells of another run must not be continued
	Interval time.Duration    // between flushes; what a kill loses at most
	MaxCells int              // in memory, about 500 bytes each
	Now      func() time.Time // for telling which minutes are over
	Logger   *slog.Logger
}

// Meter counts requests and hands what it has counted to the store at every
// interval. A process that is killed loses what it counted since the last flush; a
// store that is away makes the meter go on counting, within its bound of memory.
// Beyond the bound, requests are counted by route alone, and beyond that dropped and
// counted as such; so is what could not be stored for eight hours. It is safe for concurrent use.
//
// A cell is in memory until its minute is over and the store has its last state.
// What the store gets is always the whole count of a cell, so that a flush that was
// lost, repeated, or written without our knowledge needs no care.
type Meter struct {
	Options
	seed   maphash.Seed
	shards [shards]shard

	live     atomic.Int64 // cells in memory
	networks atomic.Int64 // of these, those with a network
	number   atomic.Int64 // of the newest cell

	folded, dropped, failed atomic.Int64

	flushing sync.Mutex // one flush at a time
	flushed  int64      // number of the newest flush
	ailing   bool       // the last flush failed, and that is in the log
}

// shard is a part of the cells, by hash.
type shard struct {
	mu     sync.Mutex
	minute int64            // of all cells of the map, in minutes since 1970
	cells  map[uint64]*cell // of the minute, by hash; chains for equal ones
	dirty  []*cell          // that the store does not know in their present state
	_      [64]byte         // keeps shards in cache lines of their own
}

// cell is a Cell that is being counted.
type cell struct {
	Cell
	network network
	next    *cell // of the same hash
	dirty   bool  // it is in the shard's list
	held    bool  // it is on its way to the store
	past    bool  // it is not in the map any more
}

// NewMeter makes a meter.
func NewMeter(o Options) *Meter {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.MaxCells <= 0 {
		o.MaxCells = DefaultMaxCells
	}
	m := &Meter{Options: o, seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].cells = map[uint64]*cell{}
	}
	return m
}

// Stats are numbers of the meter, for metrics.
type Stats struct {
	Cells   int64 // in memory
	Folded  int64 // requests counted by route alone
	Dropped int64 // requests not counted at all
	Failed  int64 // flushes that failed
}

// Stats returns the numbers.
func (m *Meter) Stats() Stats {
	return Stats{Cells: m.live.Load(), Folded: m.folded.Load(), Dropped: m.dropped.Load(), Failed: m.failed.Load()}
}

// Record counts a request. It neither waits for anything slow nor fails.
func (m *Meter) Record(e Event) {
	client := networkOf(&e)
	if m.count(&e, client) {
		return
	}
	if client.known {
		client = network{folded: true}
		if m.count(&e, client) {
			return
		}
	}
	e.UserID, e.KeyID, e.App = Folded, Folded, Folded
	if m.count(&e, client) {
		m.folded.Add(1)
	} else {
		m.dropped.Add(1)
	}
}

// network is that of a refused caller whom nothing else is known of.
type network struct {
	prefix        netip.Prefix
	known, folded bool // neither for all other callers
}

func networkOf(e *Event) network {
	if e.Refusal == "" || e.UserID != "" || e.KeyID != "" || !e.Client.IsValid() {
		return network{}
	}
	addr, bits := e.Client.Unmap(), network6
	if addr.Is4() {
		bits = network4
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	return network{prefix: prefix, known: err == nil}
}

func (n network) String() string {
	switch {
	case n.known:
		return n.prefix.String()
	case n.folded:
		return Folded
	}
	return ""
}

// count reports whether there was a cell for the event, or room for one.
func (m *Meter) count(e *Event, client network) bool {
	hash := m.hash(e, client)
	s := &m.shards[hash>>(64-shardBits)]
	s.mu.Lock()
	defer s.mu.Unlock()
	m.turn(s, minuteOf(e.At))
	c := s.cells[hash]
	for c != nil && !c.is(e, client) {
		c = c.next
	}
	if c == nil {
		if c = m.newCell(s.minute, e, client); c == nil {
			return false
		}
		c.next, s.cells[hash] = s.cells[hash], c
	}
	c.Requests++
	c.RequestBytes += e.RequestBytes
	c.ResponseBytes += e.ResponseBytes
	c.Latency.Add(e.Duration)
	if !c.dirty {
		c.dirty = true
		s.dirty = append(s.dirty, c)
	}
	return true
}

func minuteOf(at time.Time) int64 { return at.Unix() / 60 }

// hash tells combinations apart; that of a stranger's choosing cannot be aimed, for
// the seed is random. The API follows from the route, the user and the app from the key, and
// the product nearly so from route and key: they are left to [cell.is].
func (m *Meter) hash(e *Event, client network) uint64 {
	h := maphash.String(m.seed, e.Route)
	if client.known {
		h ^= maphash.Comparable(m.seed, client.prefix)
	}
	who := e.KeyID
	if who == "" {
		who = e.UserID
	}
	for _, s := range [...]string{who, e.Refusal} {
		if h = bits.RotateLeft64(h, 23); s != "" {
			h ^= maphash.String(m.seed, s)
		}
	}
	const odd = 0x9e3779b97f4a7c15 // spreads the class over all bits, those of the shard included
	return (h ^ uint64(classOf(e.Status))) * odd
}

// is reports whether the event belongs to the cell.
func (c *cell) is(e *Event, client network) bool {
	return c.Class == classOf(e.Status) && c.KeyID == e.KeyID && c.UserID == e.UserID && c.Route == e.Route && c.App == e.App &&
		c.API == e.API && c.Product == e.Product && c.Refusal == e.Refusal && c.network == client
}

// turn begins another minute. A request that ended just before one that was faster
// to get here counts for the minute of that one; only a clock that was set back
// begins an earlier minute.
func (m *Meter) turn(s *shard, minute int64) {
	if minute == s.minute || minute == s.minute-1 {
		return
	}
	for _, c := range s.cells {
		for ; c != nil; c = c.next {
			c.past = true
			if !c.dirty && !c.held {
				m.free(c)
			}
		}
	}
	clear(s.cells)
	s.minute = minute
}

// newCell is nil when there is no room. Texts are copied: what they are parts of
// must not stay in memory for their sake.
func (m *Meter) newCell(minute int64, e *Event, client network) *cell {
	room := int64(m.MaxCells)
	if e.UserID != Folded {
		room -= room / foldShare
	}
	if m.live.Add(1) > room {
		m.live.Add(-1)
		return nil
	}
	if client.known && m.networks.Add(1) > maxNetworks {
		m.networks.Add(-1)
		m.live.Add(-1)
		return nil
	}
	return &cell{network: client, Cell: Cell{
		Number: m.number.Add(1), Minute: time.Unix(minute*60, 0).UTC(),
		Route: strings.Clone(e.Route), UserID: strings.Clone(e.UserID), KeyID: strings.Clone(e.KeyID), App: strings.Clone(e.App),
		API: strings.Clone(e.API), Product: strings.Clone(e.Product), Refusal: strings.Clone(e.Refusal), Client: client.String(),
		Class: classOf(e.Status),
	}}
}

// free gives back the room of a cell that is not in memory any more.
func (m *Meter) free(c *cell) {
	m.live.Add(-1)
	if c.network.known {
		m.networks.Add(-1)
	}
}

// Run flushes at every interval until ctx ends, and once more then.
func (m *Meter) Run(ctx context.Context) error {
	tick := time.NewTicker(m.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalTimeout)
			defer cancel()
			if err := m.Flush(last); err != nil {
				m.Logger.WarnContext(last, "the last usage could not be stored", "error", err)
			}
			return nil
		case <-tick.C:
			err := m.Flush(ctx)
			if ctx.Err() == nil {
				m.report(ctx, err)
			}
		}
	}
}

// report logs the beginning and the end of an outage.
func (m *Meter) report(ctx context.Context, err error) {
	switch ailing := err != nil; {
	case ailing == m.ailing:
		return
	case ailing:
		m.Logger.WarnContext(ctx, "usage cannot be stored; it is kept in memory and tried again", "error", err)
	default:
		m.Logger.InfoContext(ctx, "usage is stored again")
	}
	m.ailing = err != nil
}

// Flush hands everything to the store that it does not know yet. It ends with the
// first batch that fails; what was not stored is part of the next flush.
func (m *Meter) Flush(ctx context.Context) error {
	m.flushing.Lock()
	defer m.flushing.Unlock()
	var batch []held
	for i := range m.shards {
		batch = m.take(&m.shards[i], batch)
		if len(batch) < batchCells && i < shards-1 || len(batch) == 0 {
			continue
		}
		if err := m.send(ctx, batch); err != nil {
			m.failed.Add(1)
			return fmt.Errorf("store the usage of %d cells: %w", len(batch), err)
		}
		batch = batch[:0]
	}
	return nil
}

// held is a cell on its way to the store, with its state when it left.
type held struct {
	shard *shard
	cell  *cell
	state Cell
}

// take appends what is dirty in the shard to batch.
func (m *Meter) take(s *shard, batch []held) []held {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.Now()
	m.turn(s, minuteOf(now))
	for i, c := range s.dirty {
		s.dirty[i], c.dirty = nil, false
		if now.Sub(c.Minute) > maxLate {
			m.forget(c)
			continue
		}
		c.held = true
		state := c.Cell
		state.Latency = c.Latency.clone()
		batch = append(batch, held{shard: s, cell: c, state: state})
	}
	s.dirty = s.dirty[:0]
	return batch
}

// forget drops a cell that was kept from the store for too long. The requests that the
// store may know of already are told as dropped, too.
func (m *Meter) forget(c *cell) {
	m.dropped.Add(c.Requests)
	if c.past {
		m.free(c)
	}
}

// send writes one batch.
func (m *Meter) send(ctx context.Context, batch []held) error {
	m.flushed++
	f := Flush{Replica: m.Replica, Number: m.flushed, Cells: make([]Cell, len(batch))}
	for i, h := range batch {
		f.Cells[i] = h.state
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	err := m.Store.WriteUsage(ctx, f)
	for _, h := range batch {
		m.release(h, err == nil)
	}
	return err
}

// release ends the way of a cell to the store.
func (m *Meter) release(h held, stored bool) {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	c := h.cell
	c.held = false
	if !stored && !c.dirty {
		c.dirty = true
		h.shard.dirty = append(h.shard.dirty, c)
	}
	if c.past && !c.dirty {
		m.free(c)
	}
}
