package ginproxy

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// caller is who calls, with what is counted of them.
type caller struct {
	digest             [sha256.Size]byte // of the key
	id, kind, key      string
	role               string
	revoked            atomic.Bool
	bucket             *bucket
	month, usedInMonth atomic.Int64
}

// keys are the keys that may pass, by their digests.
type keys struct {
	byDigest map[[sha256.Size]byte]*caller
}

func newKeys(list []string, rate float64) *keys {
	k := &keys{byDigest: make(map[[sha256.Size]byte]*caller, len(list))}
	for _, key := range list {
		digest := sha256.Sum256([]byte(key))
		k.byDigest[digest] = &caller{
			digest: digest, id: uuid.NewString(), kind: "key", role: "user", key: uuid.NewString(), bucket: newBucket(rate),
		}
	}
	return k
}

// middleware lets the owners of known keys pass.
func (k *keys) middleware(c *gin.Context) {
	digest := sha256.Sum256([]byte(c.Request.Header.Get(headerKey)))
	who := k.byDigest[digest]
	if who == nil || subtle.ConstantTimeCompare(who.digest[:], digest[:]) != 1 || who.revoked.Load() {
		refuse(c, http.StatusUnauthorized, "auth.invalid")
		return
	}
	callOf(c).who = who
	c.Next()
}

// claims are those of the gateway's own access tokens.
type claims struct {
	jwt.RegisteredClaims

	Session string `json:"sid"`
	Role    string `json:"role"`
	Scope   string `json:"scope"`
}

// tokens verifies access tokens, each time anew.
type tokens struct {
	parser  *jwt.Parser
	key     jwt.Keyfunc
	revoked sync.Map // of the jti of tokens that were revoked
}

func newTokens(key ed25519.PublicKey) *tokens {
	return &tokens{
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(Issuer),
			jwt.WithAudience(Audience), jwt.WithExpirationRequired()),
		key: func(*jwt.Token) (any, error) { return key, nil },
	}
}

// middleware lets those with a good token pass.
func (t *tokens) middleware(c *gin.Context) {
	text, found := strings.CutPrefix(c.Request.Header.Get("Authorization"), "Bearer ")
	if !found {
		refuse(c, http.StatusUnauthorized, "auth.missing")
		return
	}
	var said claims
	if _, err := t.parser.ParseWithClaims(text, &said, t.key); err != nil {
		refuse(c, http.StatusUnauthorized, "auth.invalid")
		return
	}
	if _, gone := t.revoked.Load(said.ID); gone {
		refuse(c, http.StatusUnauthorized, "auth.revoked")
		return
	}
	callOf(c).who = &caller{id: said.Subject, kind: "user", role: said.Role}
	c.Next()
}
