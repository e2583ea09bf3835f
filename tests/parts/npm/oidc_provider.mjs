// An authorization server: npm oidc-provider, certified by the OpenID Foundation, giving JWT access tokens (RFC 9068) for
// client credentials and resource indicators (RFC 8707): PORT CLIENT_ID SECRET AUDIENCE.
// Each line of JSON on stdin is a rotation, {"signs": kid, "publishes": [kid, …]}; one line is printed once it holds. A kid
// names its algorithm: "one-RS256". The keys are made when they are first named.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { generateKeyPairSync } from 'node:crypto';

const { Provider } = await import(pathToFileURL(`${process.env.NODE_PATH}/oidc-provider/lib/index.js`));
const [port, clientId, secret, audience] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const keys = new Map();

function key(kid) {
  if (!keys.has(kid)) {
    const alg = kid.split('-').at(-1);
    const { privateKey } = alg.startsWith('ES')
      ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
      : generateKeyPairSync('rsa', { modulusLength: 2048 });
    keys.set(kid, { ...privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' });
  }
  return keys.get(kid);
}

function provider(signs, publishes) {
  const { alg } = key(signs);
  const made = new Provider(issuer, {
    clients: [
      {
        client_id: clientId,
        client_secret: secret,
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: alg,
      },
    ],
    // It signs with the first one that fits.
    jwks: { keys: [key(signs), ...publishes.filter((kid) => kid !== signs).map(key)] },
    scopes: ['streams:read'],
    ttl: { ClientCredentials: 600 },
    extraTokenClaims: () => ({ airport: ['ORD', 'LAX'] }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'streams:read',
          audience: resource,
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg } },
        }),
      },
    },
  });
  made.on('server_error', (_, error) => console.error(error));
  return made.callback();
}

let serve;
const server = createServer((request, answer) => serve(request, answer));
for await (const line of createInterface({ input: process.stdin })) {
  const { signs, publishes } = JSON.parse(line);
  serve = provider(signs, publishes);
  if (!server.listening) await new Promise((done) => server.listen(Number(port), '127.0.0.1', done));
  console.log(JSON.stringify({ signs }));
}
server.closeAllConnections();
server.close();
