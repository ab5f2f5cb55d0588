// A real OpenID Connect provider for tests: `node provider.js PORT KEY`. Its log-in page takes any name and password.
// Another KEY signs with another key: of RSA where it begins with `rsa`, else of Ed25519.

import { generateKeyPairSync } from "node:crypto";

import Provider from "oidc-provider";

const [port, kid] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;

const rsa = kid.startsWith("rsa");
const alg = rsa ? "RS256" : "EdDSA";
const { privateKey } = rsa ? generateKeyPairSync("rsa", { modulusLength: 2048 }) : generateKeyPairSync("ed25519");
const key = { ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg };

const client = {
  client_id: "hull",
  token_endpoint_auth_method: "none",
  application_type: "native",
  redirect_uris: ["http://127.0.0.1/callback"],
  grant_types: ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
  response_types: ["code"],
  id_token_signed_response_alg: alg,
};

const provider = new Provider(issuer, {
  clients: [client, { ...client, client_id: "another" }],
  jwks: { keys: [key] },
  enabledJWA: { idTokenSigningAlgValues: [alg] },
  features: { deviceFlow: { enabled: true } },
  // Claims go into the ID token, where Hull reads them.
  conformIdTokenClaims: false,
  claims: { profile: ["name", "preferred_username", "groups"], email: ["email", "email_verified"] },
  cookies: { keys: ["only for tests"] },
  ttl: { IdToken: 300, DeviceCode: 300 },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      preferred_username: id,
      name: `The person ${id}`,
      groups: ["ops", "not known to Hull"],
      email: `${id}@example.org`,
      email_verified: true,
    }),
  }),
});

provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
