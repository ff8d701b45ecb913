// oidc-provider with a person who agrees to everything; prints its port, and what it granted under GET /granted.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const { publicJwk, lifetime } = JSON.parse(process.argv[2]);
const issuer = 'https://api.crm.example';
const grants = ['client_credentials', 'authorization_code', 'refresh_token'];
const common = {
  grant_types: grants,
  response_types: ['code'],
  redirect_uris: ['http://127.0.0.1/callback'],
  application_type: 'native',
};
const provider = new Provider(issuer, {
  clients: [
    { ...common, client_id: 'basic', client_secret: 's3cret-of-basic', token_endpoint_auth_method: 'client_secret_basic' },
    { ...common, client_id: 'post', client_secret: 's3cret-of-post', token_endpoint_auth_method: 'client_secret_post' },
    { ...common, client_id: 'signs', token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [publicJwk] } },
    { ...common, client_id: 'public', token_endpoint_auth_method: 'none', grant_types: grants.slice(1) },
  ],
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'] },
  features: { devInteractions: { enabled: false }, clientCredentials: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_, interaction) => `/agree/${interaction.uid}` },
  issueRefreshToken: async () => true,
  pkce: { required: () => true },
  rotateRefreshToken: true,
  scopes: ['openid', 'offline_access', 'notes'],
  cookies: { keys: ['only for tests'] },
  ttl: {
    AccessToken: lifetime, ClientCredentials: lifetime, AuthorizationCode: 60, RefreshToken: 3600,
    Grant: 3600, Interaction: 60, Session: 60, IdToken: 60,
  },
});
const granted = [];
provider.on('grant.success', (ctx) => granted.push(ctx.oidc.params.grant_type));
provider.on('grant.error', (ctx, error) => granted.push(`${error.error}: ${error.error_detail ?? ''}`));
provider.on('grant.revoked', () => granted.push('revoked'));

async function agree(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: 'ana' } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

async function note(request, response) {
  const bearer = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  const live = (await provider.AccessToken.find(bearer)) ?? (await provider.ClientCredentials.find(bearer));
  response.writeHead(live && !live.isExpired ? 200 : 401, { 'Content-Type': 'application/json' }).end('{}');
}

const handle = provider.callback();
const server = createServer((request, response) => {
  if (request.url === '/granted') return response.end(JSON.stringify(granted));
  if (request.url === '/notes') return note(request, response);
  if (request.url.startsWith('/agree/')) return agree(request, response).catch((error) => response.writeHead(500).end(String(error)));
  return handle(request, response);
});
server.listen(0, '127.0.0.1', () => console.log(`port ${server.address().port}`));
process.stdin.resume().on('end', () => process.exit(0));
