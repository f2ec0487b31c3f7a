package sample

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/keywarden/keywarden/pkg/problem"
)

// maxRecords bounds a store, and with it the size of a list.
const maxRecords = 1000

var (
	errNotFound = problem.Define(problem.NotFound, "sample.not_found", "There is no record with this id.")
	errTaken    = problem.Define(problem.Conflict, "sample.taken", "Another record has this value already.")
	errFull     = problem.Define(problem.Conflict, "sample.full", "The sample data is full. Delete a record first.")
)

// record is what a service keeps; R is the record type itself. Its JSON form is
// a flat object.
type record[R any] interface {
	// identity is the id, 0 while the record is not stored.
	identity() int
	// withIdentity is the same record with another id.
	withIdentity(id int) R
	// unique names the member that no two records may share, ignoring case,
	// and gives its value.
	unique() (member, value string)
	// members names the members besides id; a complete record has all of them.
	members() []string
	// check returns what is wrong with the members' values.
	check() []problem.Field
}

// store keeps up to limit records in order of their ids, which are small
// integers and never used again. It is safe for concurrent use.
type store[R record[R]] struct {
	limit int

	mu      sync.RWMutex
	records []R // by ascending id
	lastID  int
}

// newStore returns a store that holds seed, numbered from 1.
func newStore[R record[R]](limit int, seed ...R) *store[R] {
	s := &store[R]{limit: limit}
	for _, r := range seed {
		s.lastID++
		s.records = append(s.records, r.withIdentity(s.lastID))
	}
	return s
}

// list returns all records by ascending id.
func (s *store[R]) list() []R {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.records)
}

// count is the number of records.
func (s *store[R]) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.records)
}

// get returns errNotFound for an id that is not in use.
func (s *store[R]) get(id int) (R, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.index(id)
	if err != nil {
		var none R
		return none, err
	}
	return s.records[i], nil
}

// insert stores r under a new id. It returns errFull or errTaken.
func (s *store[R]) insert(r R) (R, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.records) >= s.limit {
		return r, errFull.WithDetail("The sample data holds at most %d records. Delete one first.", s.limit)
	}
	r = r.withIdentity(s.lastID + 1)
	if err := s.refuseTwin(r); err != nil {
		return r, err
	}
	s.lastID++
	s.records = append(s.records, r)
	return r, nil
}

// update replaces a record by what change makes of it; change must not use the
// store. It returns errNotFound, errTaken, or change's own error.
func (s *store[R]) update(id int, change func(R) (R, error)) (R, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none R
	i, err := s.index(id)
	if err != nil {
		return none, err
	}
	changed, err := change(s.records[i])
	if err != nil {
		return none, err
	}
	changed = changed.withIdentity(id)
	if err := s.refuseTwin(changed); err != nil {
		return none, err
	}
	s.records[i] = changed
	return changed, nil
}

// remove returns errNotFound for an id that is not in use.
func (s *store[R]) remove(id int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.index(id)
	if err != nil {
		return err
	}
	s.records = slices.Delete(s.records, i, i+1)
	return nil
}

// index finds a record; the caller holds the lock.
func (s *store[R]) index(id int) (int, error) {
	i, found := slices.BinarySearchFunc(s.records, id, func(r R, id int) int { return cmp.Compare(r.identity(), id) })
	if !found {
		return 0, errNotFound
	}
	return i, nil
}

// refuseTwin returns errTaken when a record other than r has r's unique value;
// the caller holds the lock.
func (s *store[R]) refuseTwin(r R) error {
	member, value := r.unique()
	for _, other := range s.records {
		if _, taken := other.unique(); other.identity() != r.identity() && strings.EqualFold(taken, value) {
			return errTaken.WithField(member, "is taken by the record with id %d", other.identity())
		}
	}
	return nil
}
