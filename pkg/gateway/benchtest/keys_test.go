package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"regexp"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/spec"
)

func TestKeysDifferAndHaveTheirChecksum(t *testing.T) {
	form := regexp.MustCompile(`^` + apikey.Pattern("kw") + `$`)
	seen := map[string]bool{}
	for _, i := range []int64{0, 1, 61, 62, 999_999, 1_000_000} {
		key := string(appendKey(nil, i))
		if !form.MatchString(key) || seen[key[8:20]] {
			t.Errorf("key %d is %q", i, key)
		}
		seen[key[8:20]] = true
		body, sum := key[:len(key)-checksumWidth], int64(0)
		for _, c := range key[len(body):] {
			sum = sum*62 + int64(strings.IndexRune(base62, c))
		}
		if sum != int64(crc32.ChecksumIEEE([]byte(body))) {
			t.Errorf("the checksum of %q is wrong", key)
		}
	}
	if got := string(appendKey([]byte("X-API-Key: "), 7)); got != "X-API-Key: "+string(appendKey(nil, 7)) {
		t.Errorf("appended to something, key 7 is %q", got)
	}
}

func TestScriptHasARowOfEachTableForEachKey(t *testing.T) {
	var script bytes.Buffer
	out := bufio.NewWriter(&script)
	writeKeys(out, 3, "pepper", hmac.New(sha256.New, []byte("secret")))
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte("secret"))
	_, _ = mac.Write(appendKey(nil, 2))
	text := script.String()
	for want, n := range map[string]int{
		"@example.com\tuser\t": 3, "\tbench\tlive\tkw_live_bench": 3, "\tpepper\t": 3, "\n\\.\n": 3,
		fmt.Sprintf("\t\\\\x%x\tpepper", mac.Sum(nil)): 1,
	} {
		if got := strings.Count(text, want); got != n {
			t.Errorf("%q is there %d times, want %d:\n%s", want, got, n, text)
		}
	}
}

func TestDocumentsAreGood(t *testing.T) {
	for text, routes := range map[string]int{
		fmt.Sprintf(document, "http://127.0.0.1:1", highLimit, int64(highQuota)): 4,
		routesDocument("http://127.0.0.1:1", 25):                                 25,
	} {
		d, err := spec.Parse("bench", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Routes) != routes {
			t.Errorf("%d routes, want %d", len(d.Routes), routes)
		}
	}
}

func TestRowsAskInTurn(t *testing.T) {
	p := &process{addr: "bench.test", key: "kw"}
	if got := string(routeRow("", p, 10).request(nil, 23)); !strings.HasPrefix(got, "GET /r3/item HTTP/1.1\r\n") || !strings.Contains(got, "\r\nX-API-Key: kw\r\n\r\n") {
		t.Errorf("got %q", got)
	}
	if got := string(keyRow("", p, 10).request(nil, 23)); !strings.HasSuffix(got, "X-API-Key: "+string(appendKey(nil, 3))+"\r\n\r\n") {
		t.Errorf("got %q", got)
	}
}

// Every gateway row has a counterpart that does the same work.
func TestRowsAreComparedWithTheirCounterparts(t *testing.T) {
	p := &process{key: "kw", token: "t"}
	c := &cast{site: &site{backend: p}, bare: p, rivalKey: p, rivalToken: p, rivalAll: p, ways: []way{{"", p, p}, {netHTTPSuffix, p, p}}}
	counterparts := map[string]string{
		nameBackend: nameBare, nameKey: nameRivalKey, nameToken: nameRivalToken, nameAll: nameRivalAll, nameCached: nameRivalKey,
	}
	for _, one := range []*table{c.saturated(), c.scheduled(), c.largeAnswers(), c.eventStreams("", stream)} {
		names := map[string]bool{}
		for _, r := range one.rows {
			names[r.name] = true
			want := counterparts[strings.TrimSuffix(r.name, netHTTPSuffix)]
			got := ""
			if r.beside != nil {
				got = r.beside.name
			}
			if got != want {
				t.Errorf("%s: %q is compared with %q, want %q", one.title, r.name, got, want)
			}
			if (r.rate > 0) != strings.Contains(one.title, "open loop") {
				t.Errorf("%s: %q has the rate %v", one.title, r.name, r.rate)
			}
		}
		if len(names) != len(one.rows) || !names[nameAll] || !names[nameAll+netHTTPSuffix] {
			t.Errorf("%s has the rows %v", one.title, names)
		}
	}
}
