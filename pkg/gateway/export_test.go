package gateway

// Recheck looks at the files of services, as the gateway does from time to time.
func (g *Gateway) Recheck() { g.recheck() }
