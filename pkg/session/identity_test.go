package session

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

func identityOf(t *testing.T, s *Signer, i Identity) string {
	t.Helper()
	token, err := s.SignIdentity(i, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return token.Reveal()
}

// TestAServiceCanCheckAnIdentity does what the guide tells a service to do.
func TestAServiceCanCheckAnIdentity(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	text := identityOf(t, s, Identity{
		Subject: testUser.ID, Audience: "orders", Kind: "key", Role: "user", Scope: "orders:read orders:write", KeyID: "k", AppID: "a", Name: "n",
	})
	published, err := json.Marshal(s.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.MapClaims
	_, err = jwt.NewParser(
		jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(testIssuer), jwt.WithAudience("orders"),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(c.now),
	).ParseWithClaims(text, &claims, func(token *jwt.Token) (any, error) {
		var set JWKS
		if err := json.Unmarshal(published, &set); err != nil || token.Header["typ"] != IdentityType {
			return nil, errMalformed
		}
		at := slices.IndexFunc(set.Keys, func(k JWK) bool { return k.KeyID == token.Header["kid"] })
		if at < 0 {
			return nil, errUnknownKey
		}
		return s.keys.Load().public[set.Keys[at].KeyID], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	now := float64(c.now().Unix())
	want := jwt.MapClaims{
		"iss": testIssuer, "sub": testUser.ID, "aud": "orders", "iat": now, "exp": now + 60, "kind": "key", "role": "user",
		"scope": "orders:read orders:write", "key_id": "k", "app_id": "a", "name": "n",
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Error(diff)
	}
}

// TestAnIdentityIsNoAccessToken is what makes it safe to show services who calls: they
// cannot call in the name of the caller.
func TestAnIdentityIsNoAccessToken(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	v, _ := newTestVerifier(t, s, c)
	if _, err := v.VerifyToken(t.Context(), issue(t, s)); err != nil {
		t.Fatal("an access token:", err)
	}
	identity := identityOf(t, s, Identity{Subject: testUser.ID, Audience: testAudience, Kind: "user", Role: "admin", Scope: "*"})
	if p, err := v.VerifyToken(t.Context(), identity); p != nil || problem.From(err).Code != access.ErrToken.Code {
		t.Errorf("%+v, %v", p, err)
	}
	// Nor does it become one under the header of an access token: that is signed too.
	access := issue(t, s)
	head, _, _ := strings.Cut(access, ".")
	_, rest, _ := strings.Cut(identity, ".")
	if _, err := v.VerifyToken(t.Context(), head+"."+rest); err == nil {
		t.Error("with the header of an access token it is accepted")
	}
}

func TestAnIdentityHasNoEmptyClaims(t *testing.T) {
	s := readySigner(t, newClock())
	_, rest, _ := strings.Cut(identityOf(t, s, Identity{Subject: "u", Audience: "a"}), ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	var claims map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if err != nil || len(claims) != 5 {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestAnIdentityFollowsTheSigningKey(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	s := newTestSigner(t, keys, newRing(t, seal.NewMasterKey()), c.now)
	if _, err := s.SignIdentity(Identity{Subject: "u", Audience: "a"}, time.Minute); problem.From(err).Code != access.ErrUndecided.Code {
		t.Errorf("without a key: %v", err)
	}
	refresh(t, s)
	first := kid(t, identityOf(t, s, Identity{Subject: "u", Audience: "a"}))
	c.advance(testRotation)
	refresh(t, s)
	c.advance(signingDelay)
	refresh(t, s)
	next := identityOf(t, s, Identity{Subject: "u", Audience: "a"})
	if kid(t, next) == first || !slices.Contains(published(s), kid(t, next)) || !slices.Contains(published(s), first) {
		t.Error("it is not signed with the newest key, or the keys are not published")
	}
	for name, i := range map[string]Identity{"no subject": {Audience: "a"}, "no audience": {Subject: "u"}} {
		if _, err := s.SignIdentity(i, time.Minute); err == nil {
			t.Errorf("%s: it was signed", name)
		}
	}
	if _, err := s.SignIdentity(Identity{Subject: "u", Audience: "a"}, time.Minute+1); err == nil {
		t.Error("a lifetime of less than whole seconds was signed")
	}
}
