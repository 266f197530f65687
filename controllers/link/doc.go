// Package link is the operator's side of the link: the server that sidecars ask
// for their Ruleset, and the memory of what they said that they enforce.
//
// Every replica of the operator serves it. A pod proves itself with a token
// that the API server reviews, and gets its own Ruleset and no other: no
// parameter of a request names a pod. The leader writes status, and every replica
// tells people which pods enforce a policy: so each asks its peers for the
// acknowledgements that reached them (Peers).
//
// Acknowledgements have no expiry: a sidecar that cannot reach the operator
// goes on enforcing what it acknowledged, for as long as its pod lives.
package link
