package sample

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// JSON media types of bodies. A PATCH body is a merge patch (RFC 7396) of a flat
// object, whichever of the two names it is sent under.
const (
	jsonType       = "application/json"
	mergePatchType = "application/merge-patch+json"
)

// resource serves the records of one store below path ("/users").
type resource[R record[R]] struct {
	path  string
	store *store[R]
}

// routes are the five operations and their PUT and PATCH spellings.
func (s resource[R]) routes() []route {
	one := s.path + "/{id}"
	return []route{
		{http.MethodGet, s.path, s.list},
		{http.MethodPost, s.path, s.create},
		{http.MethodGet, one, s.get},
		{http.MethodPut, one, s.replace},
		{http.MethodPatch, one, s.patch},
		{http.MethodDelete, one, s.remove},
	}
}

// page is the answer to a list. The store is bounded, so one page holds it.
type page[R any] struct {
	Items []R `json:"items"`
	Total int `json:"total"`
}

func (s resource[R]) list(w http.ResponseWriter, _ *http.Request) error {
	items := s.store.list()
	return writeJSON(w, http.StatusOK, page[R]{Items: items, Total: len(items)})
}

func (s resource[R]) get(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	found, err := s.store.get(id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, found)
}

func (s resource[R]) create(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, jsonType)
	if err != nil {
		return err
	}
	var made R
	present, err := decode(body, &made)
	if err != nil {
		return err
	}
	if slices.Contains(present, "id") {
		return errRecord.WithField("id", "is given by the service")
	}
	if err := checkRecord(made, present); err != nil {
		return err
	}
	if made, err = s.store.insert(made); err != nil {
		return err
	}
	// Relative to the request's own path, so that it is right behind a prefix.
	w.Header().Set("Location", fmt.Sprintf("%s/%d", strings.TrimPrefix(s.path, "/"), made.identity()))
	return writeJSON(w, http.StatusCreated, made)
}

// replace stores a complete record in the place of another.
func (s resource[R]) replace(w http.ResponseWriter, r *http.Request) error {
	return s.change(w, r, func(_ R, body []byte) (next R, err error) {
		present, err := decode(body, &next)
		if err != nil {
			return next, err
		}
		return next, checkRecord(next, present)
	}, jsonType)
}

// patch changes the members that are given and keeps the others.
func (s resource[R]) patch(w http.ResponseWriter, r *http.Request) error {
	return s.change(w, r, func(old R, body []byte) (R, error) {
		next := old
		if _, err := decode(body, &next); err != nil {
			return next, err
		}
		return next, checkRecord(next, next.members())
	}, jsonType, mergePatchType)
}

// change answers with the record that edit makes of the stored one and the body.
func (s resource[R]) change(w http.ResponseWriter, r *http.Request, edit func(old R, body []byte) (R, error), types ...string) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if _, err := s.store.get(id); err != nil {
		return err
	}
	body, err := readBody(w, r, types...)
	if err != nil {
		return err
	}
	changed, err := s.store.update(id, func(old R) (R, error) {
		next, err := edit(old, body)
		if err == nil && next.identity() != 0 && next.identity() != id {
			err = errRecord.WithField("id", "must be %d, as in the path", id)
		}
		return next, err
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, changed)
}

func (s resource[R]) remove(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := s.store.remove(id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pathID is the id of the path. Any other spelling than the canonical one names
// no record.
func pathID(r *http.Request) (int, error) {
	text := r.PathValue("id")
	id, err := strconv.Atoi(text)
	if err != nil || id < 1 || strconv.Itoa(id) != text {
		return 0, errNotFound
	}
	return id, nil
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	body = append(body, '\n')
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that left is not an error
	return nil
}
