package sample

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestStoreRefusesMoreThanItsLimit(t *testing.T) {
	s := newStore(6, seedUsers()...)
	if _, err := s.insert(user{Email: "a@example.com"}); err != nil {
		t.Fatalf("the last free place: %v", err)
	}
	if _, err := s.insert(user{Email: "b@example.com"}); !errors.Is(err, errFull) {
		t.Errorf("one more: got %v, want errFull", err)
	}
	if err := s.remove(1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.insert(user{Email: "b@example.com"}); err != nil {
		t.Errorf("after a delete: %v", err)
	}
}

func TestFullServiceSaysSo(t *testing.T) {
	srv := serve(t, Users(quiet()))
	for n := range maxRecords - 5 {
		if got := call(t, srv, "POST", "/users", fmt.Sprintf(`{"name":"n","email":"u%d@example.com","city":"c"}`, n)); got.status != 201 {
			t.Fatalf("record %d: %d %s", n, got.status, got.body)
		}
	}
	got := call(t, srv, "POST", "/users", `{"name":"n","email":"last@example.com","city":"c"}`)
	if doc := got.problem(t); got.status != 409 || doc.Code != "sample.full" || !strings.Contains(doc.Detail, "1000") {
		t.Errorf("got %d %s, want 409 sample.full with the limit", got.status, got.body)
	}
}

func TestUpdateKeepsTheRecordWhenChangeFails(t *testing.T) {
	s := newStore(9, seedUsers()...)
	before := s.list()
	failure := errors.New("no")
	if _, err := s.update(1, func(u user) (user, error) { u.Name = "x"; return u, failure }); !errors.Is(err, failure) {
		t.Errorf("got %v, want the change's own error", err)
	}
	if _, err := s.update(1, func(u user) (user, error) { u.Email = before[1].Email; return u, nil }); !errors.Is(err, errTaken) {
		t.Errorf("got %v, want errTaken", err)
	}
	if diff := cmp.Diff(before, s.list()); diff != "" {
		t.Errorf("the data changed (-before +after):\n%s", diff)
	}
}

func TestListIsACopy(t *testing.T) {
	s := newStore(9, seedUsers()...)
	s.list()[0].Name = "changed"
	if got, err := s.get(1); err != nil || got.Name == "changed" {
		t.Errorf("got %+v, %v: a reader can change the data", got, err)
	}
}

// TestStoreBehavesLikeAMap drives a store and a map with the same random
// operations and holds them equal after each.
func TestStoreBehavesLikeAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 8
		s, model, lastID := newStore[user](limit), map[int]user{}, 0
		email := rapid.SampledFrom([]string{"a@x", "A@x", "b@x", "c@x", "d@x", "e@x", "f@x", "g@x", "h@x", "i@x"})
		taken := func(id int, address string) bool {
			for _, u := range model {
				if u.ID != id && strings.EqualFold(u.Email, address) {
					return true
				}
			}
			return false
		}
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				u := user{Email: email.Draw(t, "email")}
				got, err := s.insert(u)
				switch {
				case len(model) == limit:
					if !errors.Is(err, errFull) {
						t.Fatalf("insert into a full store: %v", err)
					}
				case taken(0, u.Email):
					if !errors.Is(err, errTaken) {
						t.Fatalf("insert of a taken value: %v", err)
					}
				case err != nil || got.ID != lastID+1:
					t.Fatalf("insert: %+v, %v, want id %d", got, err, lastID+1)
				default:
					lastID++
					model[got.ID] = got
				}
			},
			"update": func(t *rapid.T) {
				id, address := rapid.IntRange(0, lastID+1).Draw(t, "id"), email.Draw(t, "email")
				got, err := s.update(id, func(u user) (user, error) { u.Email = address; return u, nil })
				switch _, exists := model[id]; {
				case !exists:
					if !errors.Is(err, errNotFound) {
						t.Fatalf("update of nothing: %v", err)
					}
				case taken(id, address):
					if !errors.Is(err, errTaken) {
						t.Fatalf("update to a taken value: %v", err)
					}
				case err != nil || got.ID != id:
					t.Fatalf("update: %+v, %v", got, err)
				default:
					model[id] = got
				}
			},
			"remove": func(t *rapid.T) {
				id := rapid.IntRange(0, lastID+1).Draw(t, "id")
				_, exists := model[id]
				if err := s.remove(id); exists != (err == nil) {
					t.Fatalf("remove %d: %v, exists %t", id, err, exists)
				}
				delete(model, id)
			},
			"": func(t *rapid.T) {
				list := s.list()
				if len(list) != len(model) || s.count() != len(model) {
					t.Fatalf("%d records, want %d", len(list), len(model))
				}
				if !slices.IsSortedFunc(list, func(a, b user) int { return a.ID - b.ID }) {
					t.Fatalf("not in order: %+v", list)
				}
				for _, u := range list {
					if got, err := s.get(u.ID); err != nil || got != u || model[u.ID] != u {
						t.Fatalf("record %d: %+v, %v, want %+v", u.ID, got, err, model[u.ID])
					}
				}
			},
		})
	})
}
